"""A consumer written by hand that only runs the SQL of the benchmarked handlers, for comparison.

Reads `{"url": …, "kind": "each" | "shared" | "batch", "first": 0, "count": 1000}` from its standard input, connects,
says "ready", waits for a line, writes `count` events with their effects, each once, says "done", and ends. It has no
network protocol, no Redis, no coordination and no retries, all of which cost time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator

import psycopg

CONNECTIONS = 8
SHARED_EVENTS = 100
BATCH_EVENTS = 500
TABLES = """
create table if not exists by_hand_events (source text, id text, data jsonb not null, primary key (source, id));
create table if not exists by_hand_effects (id text not null, n integer not null);
truncate by_hand_events, by_hand_effects
"""
EVENT = "insert into by_hand_events values ('/bench', %s, %s) on conflict do nothing"
EFFECT = "insert into by_hand_effects values (%s, %s)"
EVENTS = "insert into by_hand_events select '/bench', * from unnest(%s::text[], %s::jsonb[]) on conflict do nothing"
EFFECTS = "insert into by_hand_effects select * from unnest(%s::text[], %s::integer[])"

Connection = psycopg.AsyncConnection[psycopg.rows.TupleRow]


async def one_by_one(connection: Connection, ids: list[str], data: str) -> None:
    """Write the events of a transaction with one statement for each row and each effect."""
    async with connection.transaction():
        for each in ids:
            if (await connection.execute(EVENT, (each, data), prepare=True)).rowcount:
                await connection.execute(EFFECT, (each, len(data)), prepare=True)


async def all_at_once(connection: Connection, ids: list[str], data: str) -> None:
    """Write the events of a transaction with one statement for all rows and one for all effects."""
    async with connection.transaction():
        await connection.execute(EVENTS, (ids, [data] * len(ids)), prepare=True)
        await connection.execute(EFFECTS, (ids, [len(data)] * len(ids)), prepare=True)


async def consume(connection: Connection, kind: str, transactions: Iterator[list[str]]) -> None:
    """Write the next events until none is left."""
    write = all_at_once if kind == "batch" else one_by_one
    data = json.dumps({"s": "x" * 160})
    for ids in transactions:
        await write(connection, ids, data)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(url: str, kind: str, first: int, count: int) -> None:
    """Connect, wait for the start signal, and write."""
    size = {"each": 1, "shared": SHARED_EVENTS, "batch": BATCH_EVENTS}[kind]
    ids = [f"{n:08d}" for n in range(first, first + count)]
    transactions = iter([ids[n : n + size] for n in range(0, count, size)])
    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(CONNECTIONS)]
    _say("ready")
    sys.stdin.readline()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(consume(connection, kind, transactions))
    _say("done")
    for connection in connections:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.stdin.readline())))
