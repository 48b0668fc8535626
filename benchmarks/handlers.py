"""Measure handlers with one SQL statement per event: in a transaction each, a shared one, or a batch.

Starts a stack with two listeners and an application of each kind, has `oncecast send` publish events of 240 bytes,
waits until every listener has seen all of them end, and prints events/s, from when its first line was accepted. Every
effect is counted afterwards. For comparison, two processes then write the same rows and effects in the same kind of
transaction, see by_hand.py. Everything shares one machine: quote the ratio.

    python benchmarks/handlers.py [--each 60000] [--shared 60000] [--batch 150000] [--runs 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import by_hand
import psycopg
from end_to_end import end_to_end, write_events

from oncecast import App, Event, Transaction
from oncecast.embedded import Stack

EFFECTS = "create table public.effects (id text not null, n integer not null)"

each = App("bench_each")
shared = App("bench_shared")
batch = App("bench_batch")


@each.on("tick")
@shared.on("tick", share_transaction=True)
async def one_statement(event: Event, tx: Transaction) -> None:
    """Write a row for an event."""
    await tx.execute("insert into public.effects values (%s, %s)", (event.id, len(event.raw_data)))


@batch.on_batch("tick", max_events=500)
async def one_statement_a_batch(events: list[Event], tx: Transaction) -> None:
    """Write a row for each event with one statement."""
    await tx.execute(
        "insert into public.effects select * from unnest(%s::text[], %s::integer[])",
        ([event.id for event in events], [len(event.raw_data) for event in events]),
    )


async def rate_by_hand(url: str, kind: str, count: int) -> float:
    """Return events/s of two processes that only write; check the number of rows."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(by_hand.TABLES)
        writers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, by_hand.__file__), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(2)
        ]
        half = count // 2
        for n, writer in enumerate(writers):
            reported = {"url": url, "kind": kind, "first": n * half, "count": half}
            writer.stdin.write(json.dumps(reported).encode() + b"\n")  # type: ignore[union-attr]
            await writer.stdout.readline()  # type: ignore[union-attr]
        began_s = time.monotonic()
        for writer in writers:
            writer.stdin.write(b"\n")  # type: ignore[union-attr]
        for writer in writers:
            await writer.stdout.readline()  # type: ignore[union-attr]
        rate = 2 * half / (time.monotonic() - began_s)
        await asyncio.gather(*(writer.communicate() for writer in writers))
        cursor = await connection.execute(
            "select (select count(*) from by_hand_events), count(*) from by_hand_effects"
        )
        if await cursor.fetchone() != (2 * half, 2 * half):
            raise SystemExit("what was written by hand is not all there")
    return rate


async def measure(kind: str, count: int, runs: int) -> None:
    """Print a line for each run, and the median."""
    rates, ratios = [], []
    with tempfile.TemporaryDirectory(prefix="oncecast-bench-") as folder:
        os.chmod(folder, 0o755)
        stack = Stack(
            Path(folder) / "stack",
            listeners=2,
            producer_port=0,
            listener_port=0,
            app=f"handlers:{kind}",
            app_dir=Path(__file__).parent,
        )
        async with stack, await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute(EFFECTS)
            for run in range(runs):
                file = Path(folder) / "events.ndjson"
                write_events(file, count, run)
                rate, spent_us = await end_to_end(stack, file, count)
                yardstick = await rate_by_hand(stack.database_url, kind, count)
                rates.append(rate)
                ratios.append(rate / yardstick)
                spent = "  ".join(f"{name} {us:.0f}" for name, us in spent_us.items())
                print(
                    f"{kind}, run {run + 1}: {rate:,.0f} events/s; by hand {yardstick:,.0f}; "
                    f"ratio {rate / yardstick:.2f}; µs an event: {spent}",
                    flush=True,
                )
            cursor = await connection.execute("select count(*), count(distinct id) from public.effects")
            rows, distinct = await cursor.fetchone() or (0, 0)
    print(f"{kind}, median of {runs}: {statistics.median(rates):,.0f} events/s", end=" ")
    print(
        f"(min {min(rates):,.0f}, max {max(rates):,.0f}); ratio to by hand {statistics.median(ratios):.2f};", end=" "
    )
    print(f"{rows:,} effects of {runs * count:,} events")
    if (rows, distinct) != (runs * count, runs * count):
        raise SystemExit("not exactly once")


async def main(arguments: argparse.Namespace) -> None:
    """Measure each kind in a new stack."""
    for kind in ("each", "shared", "batch"):
        if count := getattr(arguments, kind):
            await measure(kind, count, arguments.runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=60_000)
    parser.add_argument("--shared", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=150_000)
    parser.add_argument("--runs", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
