"""`oncecast demo`: show events in progress, and a table of results that PostgreSQL computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oncecast.cli import output
from oncecast.cli.events.file import EventsFile
from oncecast.client.publisher import NdjsonLines, Publisher
from oncecast.core.errors import StartError
from oncecast.embedded import Stack

END_DEADLINE_S = 120.0
LOOK_INTERVAL_S = 0.05
SENDS_PER_S = 20
_FIGURES = """
select count(*) filter (where status = 'stored'), count(*) filter (where status = 'dead'),
    extract(epoch from max(stored_at) - min(accepted_at))::float8,
    percentile_cont(array[0.5, 0.99])
        within group (order by 1000 * extract(epoch from stored_at - accepted_at)::float8)
from oncecast.events
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """The table of results. Times are from accepted (on the producer's disk) to stored (in PostgreSQL)."""

    accepted: int
    stored: int
    dead: int
    duplicates_suppressed: int
    events_per_s: float
    p50_ms: float
    p99_ms: float

    @property
    def is_exact(self) -> bool:
        """Whether every accepted event has exactly one row."""
        return self.stored + self.dead == self.accepted > 0


async def run_demo(stack: Stack, file: Path, rate: int, *, as_json: bool) -> Figures:
    """Send `file` at `rate` events/s (0: no limit), wait until all events have ended, and print the table."""
    if not as_json:
        _print_where_to_look(stack, file)
    with _progress(enabled=not as_json) as show:
        accepted = await _send(stack, file, rate, show)
        await _wait_for_rows(stack, accepted, show)
        duplicates = await _wait_for_listeners(stack)
    figures = await _figures(stack, accepted, duplicates)
    if as_json:
        output.json(asdict(figures))
    else:
        _print(figures)
    return figures


async def _send(stack: Stack, file: Path, rate: int, show: Any) -> int:
    with file.open("rb") as opened:
        lines = EventsFile(opened.fileno()).runs()
        async with Publisher(stack.publish_url) as publisher:
            return await publisher.publish_json(_paced(lines, rate, show) if rate else lines)


async def _paced(lines: NdjsonLines, rate: int, show: Any) -> AsyncIterator[tuple[Sequence[bytes], Sequence[int]]]:
    """Yield `lines` a few at a time, so that `rate` events are sent per second."""
    began_s, sent = time.monotonic(), 0
    step = max(1, rate // SENDS_PER_S)
    async for events, numbers in lines:
        for begin in range(0, len(events), step):
            yield events[begin : begin + step], numbers[begin : begin + step]
            sent += len(events[begin : begin + step])
            show(sent, None)
            await asyncio.sleep(began_s + sent / rate - time.monotonic())


async def _wait_for_rows(stack: Stack, accepted: int, show: Any) -> None:
    """Wait until PostgreSQL has as many rows as were accepted."""
    began_s = time.monotonic()
    async with await psycopg.AsyncConnection.connect(
        stack.database_url, connect_timeout=5, autocommit=True
    ) as connection:
        while True:
            cursor = await connection.execute("select count(*) from oncecast.events")
            rows = (await cursor.fetchone() or (0,))[0]
            show(rows, accepted)
            if rows >= accepted:
                return
            if time.monotonic() - began_s > END_DEADLINE_S:
                raise StartError(f"{rows} of {accepted} events ended within {END_DEADLINE_S:.0f} s")
            await asyncio.sleep(LOOK_INTERVAL_S)


async def _wait_for_listeners(stack: Stack) -> int:
    """Wait until no running listener has events in flight; return the number of duplicates that they suppressed."""
    began_s = time.monotonic()
    async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            running = [url for name, url in stack.listener_urls.items() if stack.processes[name].pid is not None]
            health = [(await client.get(f"{url}/health")).json() for url in running]
            if not any(listener["in_flight"] for listener in health) or time.monotonic() - began_s > END_DEADLINE_S:
                return sum(listener["duplicates"] for listener in health)
            await asyncio.sleep(LOOK_INTERVAL_S)


async def _figures(stack: Stack, accepted: int, duplicates: int) -> Figures:
    async with await psycopg.AsyncConnection.connect(stack.database_url, connect_timeout=5) as connection:
        row = await (await connection.execute(_FIGURES)).fetchone()
    stored, dead, seconds, percentiles = row or (0, 0, None, None)
    p50_ms, p99_ms = percentiles or (0.0, 0.0)
    return Figures(accepted, stored, dead, duplicates, (stored + dead) / (seconds or 1), p50_ms, p99_ms)


def _print_where_to_look(stack: Stack, file: Path) -> None:
    local = {name: process.address.replace("127.0.0.1", "localhost") for name, process in stack.processes.items()}
    output.line(f"the page    {local['producer']}  (send an event, watch the broadcast)")
    for name in stack.listener_urls:
        output.line(f"{name}  curl {local[name]}/api/events  (or: kill -9 {stack.processes[name].pid})")
    output.line(f"Sending the events of {file} …")


def _print(figures: Figures) -> None:
    output.table(
        "",
        ("accepted", "stored", "dead", "duplicates suppressed", "events/s", "p50 ms", "p99 ms"),
        [
            (
                figures.accepted,
                figures.stored,
                figures.dead,
                figures.duplicates_suppressed,
                round(figures.events_per_s),
                figures.p50_ms,
                figures.p99_ms,
            )
        ],
    )
    if figures.is_exact:
        output.line(f"Every one of the {figures.accepted:,} accepted events has exactly one row in PostgreSQL.")


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Any]:
    """Show a progress bar of rows; `show(rows, accepted)` moves it."""
    columns = (TextColumn("ended"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal)) as bar:
        task = bar.add_task("ended", total=None)
        yield lambda rows, accepted: bar.update(task, completed=rows, total=accepted)
