"""The command `bench`: measure a whole system on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from pathlib import Path

from oncecast.cli import output
from oncecast.core.errors import ConfigError


def bench(*parts: str, quick: bool = False, runs: int | None = None, json: bool | None = None) -> int:
    """Measure this machine: how fast and how soon events are stored exactly once, and what that costs.

    Starts PostgreSQL, Valkey, a producer and listeners in a temporary folder, and publishes to them. In the same run
    it measures what the work costs without Oncecast: PostgreSQL alone, or the same SQL by hand. `share` is the ratio.
    Everything shares one machine: quote the ratio. Each run is checked: the command fails if an event is lost or
    stored twice. All parts take about half an hour.

    Parameters
    ----------
    parts
        What to measure: throughput, listeners (1 to 4), latency, singles (one event per request), handlers, catch-up
        (a backlog of 1,000,000 events), clients (1,000 plain WebSocket clients). By default everything.
    quick
        A rough measurement of everything in about a minute.
    runs
        The number of runs of each measurement; by default 5, or 1 with --quick.
    json
        Print JSON, one object per measurement; the default if the output is not a terminal.
    """
    from oncecast.bench.figures import COLUMNS, Figure
    from oncecast.bench.parts import PARTS, QUICK, Scale
    from oncecast.cli.stack.commands import until_signal

    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"there is no part {unknown[0][:40]!r}: the parts are {', '.join(PARTS)}")
    if runs is not None and runs < 1:
        raise ConfigError("--runs is at least 1")
    scale = QUICK if quick else Scale()
    if runs is not None:
        scale = dataclasses.replace(scale, runs=runs)
    as_json = output.wants_json(json)
    figures: list[Figure] = []

    async def measure(folder: Path) -> None:
        for name in parts or PARTS:
            (part_folder := folder / name).mkdir()
            async for figure in PARTS[name](part_folder, scale):
                figures.append(figure)
                if as_json:
                    output.json(figure.as_dict())
                else:
                    output.note(f"{figure.what}: {figure.median:,.1f} {figure.unit}")
            shutil.rmtree(part_folder, ignore_errors=True)

    folder = Path(tempfile.mkdtemp(prefix="oncecast-bench-"))
    try:
        folder.chmod(0o755)
        asyncio.run(until_signal(measure(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not as_json:
        output.table("", COLUMNS, [figure.row() for figure in figures])
    return 0
