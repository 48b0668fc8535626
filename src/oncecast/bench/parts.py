"""The parts of a benchmark. Each yields figures; every run is checked for lost and doubled events."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from oncecast.bench.alone import postgresql_alone, rate_by_hand
from oncecast.bench.applications import EFFECTS
from oncecast.bench.clients import broadcast, post_singly, publish_steadily
from oncecast.bench.figures import Figure
from oncecast.bench.system import MeasuredSystem, NotExactlyOnce, events, system, write

CONNECTIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    runs: int = 5
    events_of_bytes: dict[int, int] = field(default_factory=lambda: {240: 200_000, 2_048: 60_000, 20_480: 8_000})
    """The number of events of each size."""
    listeners: tuple[int, ...] = (1, 2, 3, 4)
    rates: tuple[float, ...] = (100, 500, 5_000)
    """Events/s at which the latency is measured, in addition to half of the maximum."""
    seconds: float = 20.0
    handled: dict[str, int] = field(default_factory=lambda: {"each": 60_000, "shared": 60_000, "batch": 150_000})
    backlog: int = 1_000_000
    clients: int = 1_000


QUICK = Scale(
    runs=1,
    events_of_bytes={240: 30_000},
    listeners=(),
    rates=(500,),
    seconds=4.0,
    handled={"each": 6_000},
    backlog=60_000,
    clients=300,
)


async def throughput(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure events/s from the first acceptance to the last commit, compared with PostgreSQL alone."""
    async with system(folder / "stack") as under:
        for size_bytes, count in scale.events_of_bytes.items():
            figure = Figure(f"end to end, {_size(size_bytes)}", "events/s")
            for run in range(scale.runs):
                await _end_to_end(under, folder, f"/{size_bytes}/{run}", count, size_bytes, figure)
                lines = list(events(f"/{size_bytes}/{run}", count, size_bytes))
                figure.compared.append(await postgresql_alone(under.stack.database_url, lines, run))
            yield figure


async def listeners(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure what further listeners cost."""
    size_bytes, count = next(iter(scale.events_of_bytes.items()))
    for number in scale.listeners:
        async with system(folder / f"stack-{number}", listeners=number) as under:
            figure = Figure(f"end to end, {number} listener{'s' * (number > 1)}", "events/s")
            for run in range(scale.runs):
                await _end_to_end(under, folder, f"/{run}", count, size_bytes, figure)
            yield figure


async def latency(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure the time from an event's acceptance to its commit, at steady rates."""
    async with system(folder / "stack") as under:
        whole = Figure("", "")
        await _end_to_end(under, folder, "/warm-up", 20_000, 240, whole)
        for rate in (*scale.rates, round(whole.median / 2)):
            figures = Figure(f"latency at {rate:,}/s, median", "ms"), Figure(f"latency at {rate:,}/s, p99", "ms")
            for run in range(scale.runs):
                source = f"/latency/{rate}/{run}"
                usage = under.usage()
                count = await publish_steadily(under.stack.publish_url, source, rate, scale.seconds)
                await under.wait_until_ended()
                await under.check(source, count)
                for figure, delay_s in zip(figures, await under.delays_s(source), strict=True):
                    figure.values.append(delay_s * 1e3)
                figures[0].cpu_us = usage.cpu_us_per(count)
            for figure in figures:
                yield figure


async def singles(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure requests with one event each, acknowledged after they are synced to disk."""
    async with system(folder / "stack") as under:
        figure = Figure(f"single posts, {CONNECTIONS} connections", "events/s")
        for run in range(scale.runs):
            source, usage = f"/single/{run}", under.usage()
            count, took_s = await post_singly(under.stack.publish_url, source, CONNECTIONS, scale.seconds)
            figure.cpu_us = usage.cpu_us_per(count)
            await under.wait_until_ended()
            await under.check(source, count)
            figure.values.append(count / took_s)
        yield figure


async def handlers(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure handlers of one SQL statement, compared with the same SQL by hand."""
    names = {"each": "handler, a transaction each", "shared": "handler, shared transaction", "batch": "batch handler"}
    for kind, count in scale.handled.items():
        app = f"oncecast.bench.applications:{kind}"
        async with system(folder / kind, app=app, schema=f"bench_{kind}") as under:
            await under.fetch(EFFECTS)
            figure = Figure(names[kind], "events/s")
            for run in range(scale.runs):
                await _end_to_end(under, folder, f"/{run}", count, 240, figure)
                figure.compared.append(await rate_by_hand(under.stack.database_url, kind, count))
            effects = await under.fetch("select count(*) from public.effects")
            if effects != (scale.runs * count,):
                raise NotExactlyOnce(f"{effects[0]:,} effects of {scale.runs * count:,} events")
            yield figure


async def catch_up(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure listeners that start behind a backlog, compared with the live rate."""
    async with system(folder / "stack") as under:
        live = Figure("", "")
        await _end_to_end(under, folder, "/live", min(scale.backlog, 200_000), 240, live)
        await asyncio.gather(*(under.stack.stop(name) for name in under.stack.listeners))
        file = folder / "events.ndjson"
        write(file, events("/backlog", scale.backlog, 240))
        await under.send(file, scale.backlog)
        await asyncio.gather(*(under.stack.start(name) for name in under.stack.listeners))
        usage = under.usage()
        await under.wait_until_ended()
        _, first_s, last_s = await under.check("/backlog", scale.backlog)
        figure = Figure(f"catch-up of {scale.backlog:,} (share: of live)", "events/s")
        figure.values.append(scale.backlog / (last_s - first_s))
        figure.compared.append(live.median)
        figure.cpu_us, figure.peak_mib = usage.cpu_us_per(scale.backlog), usage.peak_mib()
        yield figure


async def clients(folder: Path, scale: Scale) -> AsyncIterator[Figure]:
    """Measure how soon events reach many plain WebSocket clients, one more of which never reads."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    most = str(2 * scale.clients)  # all clients have one address
    settings = {"CONNECTIONS_MAX": most, "CONNECTIONS_PER_ADDRESS": most}
    async with system(folder / "stack", listeners=1, settings=settings) as under:
        what = f"{scale.clients:,} plain clients at 50/s"
        received, acknowledged = Figure(f"{what}: received, p99", "ms"), Figure(f"{what}: acknowledged, p99", "ms")
        for _ in range(scale.runs):
            usage = under.usage()
            delays_s, acknowledged_s = await broadcast(under.stack.publish_url, scale.clients, 50, scale.seconds)
            received.values.append(_p99(delays_s) * 1e3)
            acknowledged.values.append(_p99(acknowledged_s) * 1e3)
            received.cpu_us = {"producer, a delivery": usage.cpu_us_per(len(delays_s))["producer"]}
        yield received
        yield acknowledged


PARTS: dict[str, Callable[[Path, Scale], AsyncIterator[Figure]]] = {
    "throughput": throughput,
    "listeners": listeners,
    "latency": latency,
    "singles": singles,
    "handlers": handlers,
    "catch-up": catch_up,
    "clients": clients,
}


async def _end_to_end(
    under: MeasuredSystem, folder: Path, source: str, count: int, size_bytes: int, figure: Figure
) -> None:
    """Add a run: publish a file, wait until all has ended, and check that each event has one row."""
    file = folder / "events.ndjson"
    write(file, events(source, count, size_bytes))
    usage = under.usage()
    sent_s = await under.send(file, count)
    await under.wait_until_ended()
    figure.cpu_us = {"send": sent_s / count * 1e6, **usage.cpu_us_per(count)}
    figure.peak_mib = usage.peak_mib()
    accepted_s, _, last_s = await under.check(source, count)
    figure.values.append(count / (last_s - accepted_s))


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _size(size_bytes: int) -> str:
    return f"{size_bytes} B" if size_bytes < 1024 else f"{size_bytes // 1024} KiB"
