"""A stack under measurement: publish to it, wait until everything has ended, and ask PostgreSQL for the times."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psycopg

from oncecast.bench.usage import Usage
from oncecast.core.errors import OncecastError
from oncecast.embedded import Stack

LOOK_INTERVAL_S = 0.1
"""How often listeners are asked how far they are; each look takes CPU time from what is measured."""
END_DEADLINE_S = 900.0
TIMES = """
select count(*), count(distinct id), extract(epoch from min(accepted_at)),
    extract(epoch from min(pg_xact_commit_timestamp(xmin))), extract(epoch from max(pg_xact_commit_timestamp(xmin)))
from {schema}.events where source = %s
"""
DELAYS = """
select percentile_cont(array[0.5, 0.99]) within group (
    order by extract(epoch from pg_xact_commit_timestamp(xmin) - accepted_at))
from {schema}.events where source = %s
"""


class NotExactlyOnce(OncecastError):
    """Rows or effects are missing, or there are too many."""


class MeasuredSystem:
    """A running stack whose PostgreSQL records when each transaction was committed."""

    def __init__(self, stack: Stack, schema: str) -> None:
        self.stack = stack
        self._schema = schema
        self._http = httpx2.AsyncClient(timeout=30.0, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def fetch(self, query: str, *values: object) -> tuple[Any, ...]:
        """Return the row of a query."""
        async with await psycopg.AsyncConnection.connect(self.stack.database_url, autocommit=True) as connection:
            cursor = await connection.execute(query.replace("{schema}", self._schema).encode(), values)
            return (await cursor.fetchone() or ()) if cursor.description else ()

    def usage(self) -> Usage:
        """Begin to measure what all processes use."""
        pids = {name: process.pid for name, process in self.stack.processes.items()}
        return Usage({name: pid for name, pid in pids.items() if pid is not None})

    async def send(self, file: Path, count: int) -> float:
        """Publish a file by `oncecast send`; return its CPU seconds."""
        command = (sys.executable, "-m", "oncecast", "send", str(file), "--any-order", "--json")
        sending = await asyncio.create_subprocess_exec(
            *command, "--to", self.stack.publish_url, stdout=asyncio.subprocess.PIPE
        )
        before_s = _children_s()
        printed, _ = await sending.communicate()
        if msgspec.json.decode(printed)["accepted"] != count:
            raise NotExactlyOnce("not all events were accepted")
        return _children_s() - before_s

    async def offset(self) -> int:
        """Return the newest offset of the journal."""
        last: int = (await self._http.get(f"{self.stack.publish_url}/health")).json()["journal"]["last"]
        return last

    async def wait_until_ended(self) -> None:
        """Wait until every listener has seen all accepted events end."""
        last = await self.offset()
        async with asyncio.timeout(END_DEADLINE_S):
            while True:
                ended = [await self._watermark(url) for url in self.stack.listener_urls.values()]
                if min(ended) >= last:
                    return
                await asyncio.sleep(LOOK_INTERVAL_S)

    async def _watermark(self, url: str) -> int:
        watermark: int = (await self._http.get(f"{url}/health")).json()["producers"][0]["watermark"]
        return watermark

    async def check(self, source: str, count: int) -> tuple[float, float, float]:
        """Return when the first event was accepted, and the first and the last were committed, as Unix times in s.

        Raises NotExactlyOnce unless the events of `source` have `count` rows.
        """
        rows, distinct, *times_s = await self.fetch(TIMES, source)
        if (rows, distinct) != (count, count):
            raise NotExactlyOnce(f"{rows:,} rows of {count:,} events of {source}")
        accepted_s, first_s, last_s = map(float, times_s)
        return accepted_s, first_s, last_s

    async def delays_s(self, source: str) -> tuple[float, float]:
        """Return the median and the 99th percentile of the time from an event's acceptance to its commit."""
        (delays,) = await self.fetch(DELAYS, source)
        return float(delays[0]), float(delays[1])


@asynccontextmanager
async def system(
    folder: Path,
    *,
    listeners: int = 2,
    app: str | None = None,
    schema: str = "oncecast",
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[MeasuredSystem]:
    """Run a stack in a new folder; its data is removed with the folder."""
    made = Stack(
        folder,
        listeners=listeners,
        producer_port=0,
        listener_port=0,
        app=app,
        environment=settings,
        temporary=True,
    )
    async with made as stack:
        running = MeasuredSystem(stack, schema)
        try:
            await running.fetch("alter system set track_commit_timestamp = on")
            for name in (*stack.listeners, "postgres"):
                await stack.stop(name)
            for name in ("postgres", *stack.listeners):
                await stack.start(name)
            yield running
        finally:
            await running.close()


def event(source: str, n: int, size_bytes: int) -> bytes:
    """Return the n-th event of a source: a structured CloudEvent of exactly `size_bytes`."""
    head = f'{{"specversion":"1.0","id":"{n:010d}","source":"{source}","type":"tick","data":{{"n":{n},"s":"'.encode()
    return head + _text(size_bytes - len(head) - 3) + b'"}}'


def events(source: str, count: int, size_bytes: int) -> Iterator[bytes]:
    """Yield events, with ids in order, as Oncecast draws them."""
    return (event(source, n, size_bytes) for n in range(count))


def write(file: Path, lines: Iterator[bytes]) -> None:
    """Write events as NDJSON."""
    with file.open("wb") as target:
        target.writelines(line + b"\n" for line in lines)


def _text(size_bytes: int) -> bytes:
    words = b"lorem ipsum dolor sit amet consectetur adipiscing elit 1234 "
    return (words * (size_bytes // len(words) + 1))[:size_bytes]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
