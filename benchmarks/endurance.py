"""Measure the memory of a listener that must wait, and of one with a large backlog.

    python benchmarks/endurance.py outage [--seconds 120] [--rate 1000]    PostgreSQL is down while events arrive
    python benchmarks/endurance.py backlog [--mib 1024]                    a listener starts late

Both start a stack, print the results, and fail if an event is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import msgspec
import psycopg

from oncecast import Event, Publisher
from oncecast.embedded import Stack

INTERVAL_S = 0.05
SAMPLE_INTERVAL_S = 0.25
WARM_UP_S = 10.0
EVENT_BYTES = 1024
FILE_EVENTS = 65_536
MIB = 1024 * 1024


class Scales:
    """Measures the resident memory of processes in bytes (Linux)."""

    def __init__(self, stack: Stack, names: list[str]) -> None:
        self._stack = stack
        self._names = names
        self.first = self.weigh()
        self.most = dict(self.first)

    def weigh(self) -> dict[str, int]:
        """Return the current memory of each process."""
        return {name: _rss(self._stack.process(name).pid) for name in self._names}

    async def run(self) -> None:
        """Record the maximum of each process, until cancelled."""
        while True:
            self.most = {name: max(self.most[name], now) for name, now in self.weigh().items()}
            await asyncio.sleep(SAMPLE_INTERVAL_S)


def _rss(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


async def outage(stack: Stack, seconds: float, rate: float) -> None:
    """Stop PostgreSQL for `seconds` while `rate` events per second arrive."""
    accepted, ended = 0, asyncio.Event()

    async def publish() -> None:
        nonlocal accepted
        count = round(rate * INTERVAL_S)
        async with Publisher(stack.publish_url) as publisher:
            while not ended.is_set():
                due_s = time.monotonic() + INTERVAL_S
                accepted += await publisher.publish_many([Event.new("tick", {"n": n}) for n in range(count)])
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        await asyncio.sleep(WARM_UP_S)
        scales = Scales(stack, stack.listeners)
        watching = group.create_task(scales.run())
        await stack.stop("postgres")
        before, began_s = accepted, time.monotonic()
        await asyncio.sleep(seconds)
        during = accepted - before
        away_s = time.monotonic() - began_s
        await stack.start("postgres")
        back_s = time.monotonic()
        ended.set()
        stored, dead = await _stored(stack, lambda: accepted)
        took_s = time.monotonic() - back_s
        watching.cancel()
    print(f"PostgreSQL away for {away_s:.0f} s, {during:,} events accepted meanwhile ({during / away_s:,.0f}/s)")
    for name in stack.listeners:
        first, most = scales.first[name], scales.most[name]
        print(f"{name}: {first / MIB:.0f} MiB before, at most {most / MIB:.0f} MiB: {(most - first) / MIB:+.0f} MiB")
    print(f"all stored {took_s:.1f} s after its return; {accepted:,} accepted, {stored:,} stored, {dead:,} dead")
    if stored != accepted:
        raise SystemExit("not exactly once")


async def backlog(stack: Stack, folder: Path, mib: int) -> None:
    """Publish `mib` MiB while no listener runs, then start one. Measure the same live first."""
    late, other = stack.listeners
    await stack.stop(other)
    count, sent = mib * MIB // EVENT_BYTES, 0
    live = min(count, 4 * FILE_EVENTS)
    began_s = time.monotonic()
    for run in range(live // FILE_EVENTS):
        sent += await _send(stack, folder, run, FILE_EVENTS)
    await _stored(stack, lambda: sent)
    live_per_s = sent / (time.monotonic() - began_s)
    await stack.stop(late)
    for run in range(count // FILE_EVENTS):
        sent += await _send(stack, folder, 1_000 + run, FILE_EVENTS)
    print(f"live {live_per_s:,.0f} events/s of {EVENT_BYTES} bytes; backlog of {count * EVENT_BYTES / MIB:,.0f} MiB")
    async with _weighing(stack, late) as scales:
        began_s = time.monotonic()
        await stack.start(late)
        stored, dead = await _stored(stack, lambda: sent)
        took_s = time.monotonic() - began_s
    rate = count / took_s
    print(
        f"caught up in {took_s:.1f} s: {rate:,.0f} events/s, {rate / live_per_s:.2f} of live; "
        f"the listener weighed at most {scales.most[late] / MIB:.0f} MiB, "
        f"the producer {scales.most['producer'] / MIB:.0f} MiB"
    )
    print(f"{sent:,} accepted, {stored:,} stored, {dead:,} dead")
    if stored != sent:
        raise SystemExit("not exactly once")


@asynccontextmanager
async def _weighing(stack: Stack, listener: str) -> AsyncIterator[Scales]:
    scales = Scales(stack, [listener, "producer"])
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(scales.run())
        yield scales
        watching.cancel()


async def _send(stack: Stack, folder: Path, run: int, count: int) -> int:
    """Publish `count` events of EVENT_BYTES with `oncecast send`; return how many were accepted."""
    file = folder / "events.ndjson"
    with file.open("wb") as opened:
        for n in range(count):
            event = {"specversion": "1.0", "id": f"{run}-{n:08d}", "source": "/bench", "type": "tick", "data": ""}
            event["data"] = "x" * (EVENT_BYTES - len(msgspec.json.encode(event)))
            opened.write(msgspec.json.encode(event) + b"\n")
    send = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oncecast", "send", str(file), "--any-order", "--to", stack.publish_url, "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await send.communicate()
    accepted: int = json.loads(printed)["accepted"]
    return accepted


async def _stored(stack: Stack, accepted: Callable[[], int]) -> tuple[int, int]:
    """Wait until every running listener has seen all accepted events end; return the counts of stored and dead
    rows."""
    async with httpx2.AsyncClient(timeout=30.0) as client:
        while True:
            last = (await client.get(f"{stack.publish_url}/health")).json()["journal"]["last"]
            urls = [url for name, url in stack.listener_urls.items() if stack.process(name).pid is not None]
            answers = [(await client.get(f"{url}/health")).json() for url in urls]
            seen = [feed["watermark"] for answer in answers for feed in answer["producers"]]
            if last == accepted() and min(seen) == last:
                break
            await asyncio.sleep(INTERVAL_S)
    async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
        query = "select count(*) filter (where status = 'stored'), count(*) filter (where status = 'dead')"
        row = await (await connection.execute(f"{query} from oncecast.events")).fetchone()
    return row or (0, 0)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="oncecast-endurance-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


async def main(options: argparse.Namespace) -> None:
    """Run the selected measurement."""
    with _folder() as folder:
        async with Stack(folder / "stack", listeners=2, producer_port=0, listener_port=0) as stack:
            if options.what == "outage":
                await outage(stack, options.seconds, options.rate)
            else:
                await backlog(stack, folder, options.mib)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["outage", "backlog"])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--mib", type=int, default=1024)
    asyncio.run(main(parser.parse_args()))
