"""The command `chaos`: a whole system under real faults, and a verdict that anybody can have again."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from oncecast.cli import output
from oncecast.cli.stack import until_signal
from oncecast.core.errors import ConfigError

INTERRUPTED_STATUS = 130


def chaos(
    *,
    seconds: float = 60.0,
    seed: int | None = None,
    faults: str = "kill,stop,pause,empty",
    listeners: int = 3,
    producers: int = 2,
    rate: float = 2000.0,
    history: Path | None = None,
    json: bool | None = None,
) -> int:
    """Prove it: run a whole system, hurt it in every way while events flow, then count what PostgreSQL has.

    Starts producers, listeners, PostgreSQL and Valkey in a temporary folder, publishes without pause, and kills,
    stops and freezes one, most or all of a sort at a time. Handlers count their effects; some fail, hide SQL errors,
    are slow, or kill their process; dead letters are replayed meanwhile. Then everything is healed and drains. Exits
    with 0 only if nothing acknowledged was lost, nothing took effect twice, and nothing died that was not told to.

    Parameters
    ----------
    seconds
        How long faults come.
    seed
        Draws the faults and events; the same seed, the same plan. By default drawn from the clock, and told.
    faults
        Which kinds, comma-separated: kill, stop, pause, empty.
    listeners
        How many share the work.
    producers
        How many accept events, each with a journal of its own.
    rate
        Events a second, all producers together.
    history
        A file that gets every fault and the verdict, one JSON object a line.
    json
        Print JSON; by default when the output is no terminal.
    """
    from oncecast.chaos.faults import KINDS
    from oncecast.chaos.run import Report, Settings, run

    kinds = [kind.strip() for kind in faults.split(",") if kind.strip()]
    if not kinds or not set(kinds) <= set(KINDS):
        raise ConfigError(f"--faults: {faults[:60]!r} will not do; it takes some of {', '.join(KINDS)}")
    if seconds <= 0 or rate <= 0:
        raise ConfigError("--seconds and --rate are above 0")
    settings = Settings(
        seconds=seconds,
        seed=time.time_ns() % 1_000_000 if seed is None else seed,
        kinds=kinds,
        listeners=listeners,
        producers=producers,
        events_per_s=rate,
    )
    output.note(
        f"seed {settings.seed}: {seconds:g} s, {listeners} listeners, {producers} producers, {rate:g} events/s"
    )
    reports: list[Report] = []

    async def work(folder: Path, log: BinaryIO | None) -> None:
        began_s = time.monotonic()

        def tell(what: str, about: dict[str, Any]) -> None:
            at_s = round(time.monotonic() - began_s, 2)
            if log is not None:
                log.write(msgspec.json.encode({"t_s": at_s, "what": what, **about}) + b"\n")
                log.flush()
            output.note(f"{at_s:7.1f} s  {_told(what, about)}")

        reports.append(await run(folder / "stack", settings, tell))
        if log is not None:
            log.write(msgspec.json.encode({"what": "verdict", **reports[0].as_dict()}) + b"\n")

    folder = Path(tempfile.mkdtemp(prefix="oncecast-chaos-"))
    log = history.open("wb") if history is not None else None
    try:
        asyncio.run(until_signal(work(folder, log)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if log is not None:
            log.close()
    if not reports:
        return INTERRUPTED_STATUS
    _print(reports[0], as_json=output.wants_json(json))
    return 0 if reports[0].is_valid else 1


def _told(what: str, about: dict[str, Any]) -> str:
    if what == "fault":
        length = "" if about["kind"] == "empty" else f" for {about['length_s']:g} s"
        return f"{about['kind']} {', '.join(about['targets'])}{length}  ({about['acknowledged']:,} acknowledged)"
    return f"{what} " + ", ".join(f"{name} {output.cell(value)}" for name, value in about.items())


def _print(report: Any, *, as_json: bool) -> None:
    if as_json:
        output.json(report.as_dict())
        return
    rows = [(name.replace("_", " "), count) for name, count in report.verdict.as_dict().items()]
    output.table("", ("", "events"), rows)
    output.line(f"seed {report.seed}, {report.faults} faults; drained: {'yes' if report.drained else 'NO'}")
    output.line(f"longest stall {report.longest_stall_s:g} s")
    output.line(f"accepted to stored at most {report.longest_accepted_to_stored_s:g} s")
    output.line("VALID: nothing lost, nothing twice." if report.is_valid else "NOT VALID.")
