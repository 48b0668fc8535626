"""Measure how fast events are stored exactly once, end to end, and the CPU time of each process per event.

Starts a stack of its own, has `oncecast send` publish events of 240 bytes, waits until every listener has seen all of
them end, and prints events/s (from when its first line was accepted) with the CPU time of every process in µs an
event. For scale it then feeds PostgreSQL alone the same rows in the same way. Everything shares one machine: quote
the ratio.

    python benchmarks/end_to_end.py [--events 200000] [--runs 3] [--listeners 2]
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
from datetime import datetime
from pathlib import Path

import httpx2
import msgspec
import psycopg

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.event import Arrival, Cursor
from oncecast.core.positions import JournalPosition
from oncecast.core.ranges import Range
from oncecast.embedded import Stack
from oncecast.stores.postgres import Database, PostgresEvents

EVENT_BYTES = 240
BATCH_EVENTS = 500
LOOK_INTERVAL_S = 0.1
"""The minimum: polling takes CPU time from what is measured, so a run is polled rarely until it nears its end."""
LOOK_SELDOM_S = 0.5
"""The maximum: listeners speed up when `oncecast send` has ended, so the remaining time is overestimated."""
PERIODS_PER_S = os.sysconf("SC_CLK_TCK")


def write_events(file: Path, count: int, run: int) -> list[bytes]:
    """Write `count` structured events of EVENT_BYTES each, different in each run."""
    lines = []
    for n in range(count):
        event = {"specversion": "1.0", "id": f"{run}-{n:08d}", "source": "/bench", "type": "tick", "data": {"n": n}}
        event["data"]["s"] = ""  # type: ignore[index]
        spare = EVENT_BYTES - len(msgspec.json.encode(event))
        event["data"]["s"] = "x" * spare  # type: ignore[index]
        lines.append(msgspec.json.encode(event))
    file.write_bytes(b"\n".join(lines) + b"\n")
    return lines


def cpu_s(pid: int | None) -> float:
    """Return the CPU seconds of a process and its children, because PostgreSQL works in children (Linux)."""
    if pid is None:
        return 0.0
    own = _cpu_s(pid)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(_cpu_s(int(child)) for child in children)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / PERIODS_PER_S  # the process, and its children that have ended


async def end_to_end(stack: Stack, file: Path, count: int) -> tuple[float, dict[str, float]]:
    """Return events/s from the first acceptance until all listeners are done, and µs of CPU per event by process."""
    before = {name: cpu_s(process.pid) for name, process in stack.processes.items()}
    async with httpx2.AsyncClient() as client:
        already = await received(stack, client)
        began_s, times = time.monotonic(), os.times()
        send = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "oncecast",
                "send",
                str(file),
                "--any-order",
                "--to",
                stack.publish_url,
                "--json",
            ),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await send.communicate()
        if json.loads(printed)["accepted"] != count:
            raise SystemExit("not all events were accepted")
        while (done := await received(stack, client) - already) < count:
            left_s = (time.monotonic() - began_s) * (count - done) / done if done else 0.0
            await asyncio.sleep(min(max(LOOK_INTERVAL_S, left_s / 2), LOOK_SELDOM_S))
        rate = count / (time.time() - await accepted_at_s(stack, client, file))
    sender_s = sum(os.times()[2:4]) - sum(times[2:4])
    spent = {name: cpu_s(process.pid) - before[name] for name, process in stack.processes.items()}
    return rate, {name: seconds / count * 1e6 for name, seconds in {"send": sender_s, **spent}.items()}


async def accepted_at_s(stack: Stack, client: httpx2.AsyncClient, file: Path) -> float:
    """Return when the first line of `file` was accepted; the start of the sender is not measured."""
    with file.open("rb") as lines:
        id_ = json.loads(next(lines))["id"]
    answer = await client.get(f"{next(iter(stack.listener_urls.values()))}/api/events/{id_}")
    return datetime.fromisoformat(answer.json()["accepted_at"]).timestamp()


async def received(stack: Stack, client: httpx2.AsyncClient) -> int:
    """Return the offset up to which every listener has seen all events end."""
    answers = [(await client.get(f"{url}/health")).json() for url in stack.listener_urls.values()]
    return min(int(answer["producers"][0]["watermark"]) for answer in answers)


async def postgresql_alone(stack: Stack, lines: list[bytes]) -> float:
    """Return rows/s of the same rows, inserted in the same way by two connections only."""
    database = Database(
        stack.database_url, SYSTEM_CLOCK, schema=f"alone_{time.time_ns()}", instance="bench", token="0" * 16
    )
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    position = JournalPosition("j", Cursor("e", 0))
    whole = Range(position, "e", 1, len(lines), first_new=1, at_us=0, raws=[], unended=len(lines), cost_bytes=0)
    arrivals = [
        Arrival(
            position, whole, n, 0, f"{n}", "/bench", "tick", msgspec.Raw(line), 0, attempts=1, epoch="e", journal="j"
        )
        for n, line in enumerate(lines, 1)
    ]
    batches = [arrivals[n : n + BATCH_EVENTS] for n in range(0, len(arrivals), BATCH_EVENTS)]
    began_s = time.monotonic()

    async def insert() -> None:
        while batches:
            await store.insert(batches.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(insert())
    rate = len(lines) / (time.monotonic() - began_s)
    await store.close()
    return rate


async def main(events: int, runs: int, listeners: int) -> None:
    """Print a line for each run, and the medians."""
    rates, ratios = [], []
    with tempfile.TemporaryDirectory(prefix="oncecast-bench-") as folder:
        os.chmod(folder, 0o755)
        async with Stack(Path(folder) / "stack", listeners=listeners, producer_port=0, listener_port=0) as stack:
            for run in range(runs):
                lines = write_events(Path(folder) / "events.ndjson", events, run)
                rate, spent_us = await end_to_end(stack, Path(folder) / "events.ndjson", events)
                alone = await postgresql_alone(stack, lines)
                rates.append(rate)
                ratios.append(rate / alone)
                spent = "  ".join(f"{name} {us:.1f}" for name, us in spent_us.items())
                print(
                    f"run {run + 1}: {rate:,.0f} events/s end to end; PostgreSQL alone {alone:,.0f}; "
                    f"ratio {rate / alone:.2f}; µs an event: {spent}"
                )
            async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
                cursor = await connection.execute("select count(*) from oncecast.events where source = '/bench'")
                rows = (await cursor.fetchone() or (0,))[0]
    print(f"{runs * events:,} accepted, {rows:,} rows")
    print(
        f"median of {runs}: {statistics.median(rates):,.0f} events/s (min {min(rates):,.0f}, max {max(rates):,.0f}); "
        f"ratio to PostgreSQL alone {statistics.median(ratios):.2f}"
    )
    if rows != runs * events:
        raise SystemExit("not exactly once")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--listeners", type=int, default=2)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.runs, arguments.listeners))
