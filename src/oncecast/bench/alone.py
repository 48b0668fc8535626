"""What the same work costs without Oncecast: PostgreSQL alone, and a consumer written by hand."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psycopg

from oncecast.bench import by_hand
from oncecast.bench.system import NotExactlyOnce
from oncecast.clock import SYSTEM_CLOCK
from oncecast.stores.postgres import Database

CONNECTIONS = 2
BATCH_EVENTS = 1_000
_COLUMNS = 'source, id, type, data, journal, epoch, "offset", listener, attempts, accepted_at'


async def postgresql_alone(url: str, lines: Sequence[bytes], run: int) -> float:
    """Return rows/s of the same rows in a table of their own, whose only index is the primary key.

    COPY of prepared text by two connections, 1,000 rows per transaction, is the fastest statement that is known.
    """
    schema = f"alone_{run}"
    database = Database(url, SYSTEM_CLOCK, schema=schema, instance="bench", token="0" * 16)
    await database.open()
    await database.migrate()
    await database.close()
    await _execute(url, f"drop index {schema}.events_newest, {schema}.events_dead")
    parts = [_copied(lines[n : n + BATCH_EVENTS], n) for n in range(0, len(lines), BATCH_EVENTS)]
    parts.reverse()

    async def copy() -> None:
        async with await psycopg.AsyncConnection.connect(url) as connection, connection.cursor() as cursor:
            while parts:
                part = parts.pop()
                async with cursor.copy(f"copy {schema}.events ({_COLUMNS}) from stdin".encode()) as target:
                    await target.write(part)
                await connection.commit()

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(copy())
    rate = len(lines) / (time.monotonic() - began_s)
    await _execute(url, f"drop schema {schema} cascade")
    return rate


async def _execute(url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement.encode())


def _copied(lines: Sequence[bytes], first: int) -> bytes:
    """Return rows in the text format of COPY; the texts have no characters that need escapes."""
    rows = []
    for offset, line in enumerate(lines, first + 1):
        one = msgspec.json.decode(line)
        data = msgspec.json.encode(one["data"]).decode()
        at = "2026-01-01 00:00:00+00"
        rows.append(f"{one['source']}\t{one['id']}\ttick\t{data}\tj\te\t{offset}\tbench\t1\t{at}\n")
    return "".join(rows).encode()


async def rate_by_hand(url: str, kind: str, count: int) -> float:
    """Return events/s of two processes that only run the SQL of the handlers `kind`. Raises NotExactlyOnce."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(by_hand.TABLES)
        half = count // 2
        writers = [await _writer(url, kind, n * half, half) for n in range(2)]
        began_s = time.monotonic()
        for writer in writers:
            _tell(writer, b"")
        for writer in writers:
            await _answer(writer)
        rate = 2 * half / (time.monotonic() - began_s)
        await asyncio.gather(*(writer.communicate() for writer in writers))
        cursor = await connection.execute(
            "select (select count(*) from by_hand_events), count(*) from by_hand_effects"
        )
        if await cursor.fetchone() != (2 * half, 2 * half):
            raise NotExactlyOnce("what was written by hand is not all there")
    return rate


async def _writer(url: str, kind: str, first: int, count: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(by_hand.__file__)), stdin=pipe, stdout=pipe
    )
    _tell(writer, msgspec.json.encode({"url": url, "kind": kind, "first": first, "count": count}))
    await _answer(writer)
    return writer


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    if process.stdin is not None:
        process.stdin.write(line + b"\n")


async def _answer(process: asyncio.subprocess.Process) -> None:
    if process.stdout is None or not await process.stdout.readline():
        raise NotExactlyOnce("a writer has ended early")
