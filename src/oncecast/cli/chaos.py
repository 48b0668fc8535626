"""The command `chaos`: run a whole system under real faults; a seed makes the run repeatable."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from oncecast.cli import output
from oncecast.cli.stack.commands import until_signal
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.chaos.run import ChaosReport
    from oncecast.chaos.subject import Subject

INTERRUPTED_STATUS = 130
SHOWN_MAX = 4


def chaos(
    *,
    app: str | None = None,
    app_dir: Path = Path(),
    events: Path | None = None,
    seconds: float = 60.0,
    seed: int | None = None,
    faults: str = "all",
    targets: str = "",
    listeners: int = 3,
    producers: int = 2,
    rate: float | None = None,
    history: Path | None = None,
    data: Path | None = None,
    json: bool | None = None,
) -> int:
    """Check the promise: inject faults into a whole system while events flow, then compare the results.

    Starts producers, listeners, PostgreSQL and Valkey in a temporary folder, with a proxy on each connection,
    publishes events, and injects faults into one, most or all processes, links or journals of one kind. Handlers
    count their effects; some fail, hide SQL errors, are slow, or kill their process. Dead letters are replayed
    meanwhile. Then all faults are removed, and the system drains. The exit status is 0 only if no acknowledged event
    was lost, no effect happened twice, no event became a dead letter unexpectedly, and no cursor was ahead of the
    rows in PostgreSQL.

    --app runs your application. Its module defines `chaos_events(draw)`, a generator of the events to publish (`draw`
    is a random.Random); `chaos_setup`, the SQL that creates its tables; `chaos_checks`, a dict of queries that must
    return no row at the end; and `chaos_may_die`, the types that may become dead letters. Each event and each emitted
    event must end exactly once.

    Parameters
    ----------
    app
        The application under test, such as shop:app; by default the built-in one.
    app_dir
        The folder of the application's module, unless it is installed.
    events
        An NDJSON file whose events are published instead, repeatedly, each time under new ids.
    seconds
        The time in which faults are injected.
    seed
        The seed of faults and events: the same seed gives the same plan. By default, a printed random number.
    faults
        Kinds of faults, comma-separated, or all: kill, stop, pause (processes); cut, freeze, delay, reset, drop
        (links; drop loses the answer to a COMMIT); empty, refuse (Valkey); full, restore (journals; full on Linux
        only); crash (an event whose handler kills its process; built-in application only).
    targets
        What faults are injected into, comma-separated, by kind or name, such as listeners or listener-a;
        by default everything.
    listeners
        The number of listeners.
    producers
        The number of producers, each with its own journal.
    rate
        Events per second, over all producers; by default 2000, or 200 with --app.
    history
        A file for every fault and the result, one JSON object per line.
    data
        The folder of the system and its logs; by default a temporary folder, removed at the end.
    json
        Print JSON; the default if the output is not a terminal.
    """
    from oncecast.chaos.run import Settings, run
    from oncecast.chaos.subject import OWN_EVENTS_PER_S, USERS_EVENTS_PER_S

    if rate is None:
        rate = OWN_EVENTS_PER_S if app is None else USERS_EVENTS_PER_S
    if seconds <= 0 or rate <= 0:
        raise ConfigError("--seconds and --rate are above 0")
    if events is not None and app is None:
        raise ConfigError("--events goes with --app: the built-in application has its own events")
    settings = Settings(
        seconds=seconds,
        seed=time.time_ns() % 1_000_000 if seed is None else seed,
        kinds=_kinds(faults, own=app is None),
        targets=_listed(targets),
        listeners=listeners,
        producers=producers,
        events_per_s=rate,
        subject=None if app is None else _subject(app, app_dir, events),
    )
    output.note(
        f"seed {settings.seed}: {seconds:g} s, {listeners} listeners, {producers} producers, {rate:g} events/s"
    )
    reports: list[ChaosReport] = []

    async def work(folder: Path, teller: _Reporter) -> None:
        reports.append(await run(folder, settings, teller.notify, temporary=data is None))
        teller.log({"what": "verdict", **reports[0].as_dict()})

    with ExitStack() as ending:
        folder = data or Path(tempfile.mkdtemp(prefix="oncecast-chaos-"))
        if data is None:
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
        elif data.exists() and any(data.iterdir()):
            raise ConfigError(f"--data: {data} is not empty: a run begins with a new system")
        log = ending.enter_context(history.open("wb")) if history is not None else None
        teller = ending.enter_context(_reporting(log, seconds))
        asyncio.run(until_signal(work(folder / "stack" if data is None else data, teller)))
    if not reports:
        return INTERRUPTED_STATUS
    _print(reports[0], as_json=output.wants_json(json))
    return 0 if reports[0].is_valid else 1


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _subject(target: str, app_dir: Path, events: Path | None) -> Subject:
    from oncecast.app.loading import load_app
    from oncecast.chaos.subject import of_user

    app_dir = app_dir.resolve()
    app = load_app(target, app_dir)
    return of_user(app, sys.modules[target.partition(":")[0]], target, app_dir, events)


def _kinds(faults: str, *, own: bool) -> list[str]:
    from oncecast.chaos.faults import CRASH, KINDS, LINUX_ONLY

    impossible = frozenset() if sys.platform.startswith("linux") else LINUX_ONLY
    known = [kind for kind in (*KINDS, *([CRASH] if own else [])) if kind not in impossible]
    kinds = known if faults.strip() == "all" else _listed(faults)
    if not kinds or not set(kinds) <= set(known):
        raise ConfigError(
            f"invalid value for --faults: {faults[:60]!r} (expected all, or a list of {', '.join(known)})"
        )
    return kinds


class _Reporter:
    """Writes each step to the history file and to the terminal, with a bar that shows the current faults."""

    def __init__(self, log: BinaryIO | None, bar: Progress, seconds: float) -> None:
        self._log = log
        self._bar = bar
        self._task = bar.add_task("starting", total=seconds)
        self._began_s = time.monotonic()

    def notify(self, what: str, about: dict[str, Any]) -> None:
        at_s = round(time.monotonic() - self._began_s, 2)
        if what == "status":
            self._bar.update(self._task, completed=at_s, description=_status(about))
            return
        self.log({"t_s": at_s, "what": what, **about})
        text = f"{at_s:7.1f} s  {_step_text(what, about)}"
        if self._bar.disable:
            output.note(text)
        else:
            self._bar.console.print(output.printable(text), markup=False, highlight=False)

    def log(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(msgspec.json.encode(line) + b"\n")
            self._log.flush()


@contextmanager
def _reporting(log: BinaryIO | None, seconds: float) -> Iterator[_Reporter]:
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Reporter(log, bar, seconds)


def _status(about: dict[str, Any]) -> str:
    return f"{about['acknowledged']:,} acknowledged; active faults: {_names(about['faulty'])}"


def _names(names: list[str]) -> str:
    if len(names) <= SHOWN_MAX:
        return ", ".join(names) or "nothing"
    return f"{', '.join(names[:SHOWN_MAX])} and {len(names) - SHOWN_MAX} more"


def _step_text(what: str, about: dict[str, Any]) -> str:
    if what == "fault":
        length = f" for {about['length_s']:g} s" if about["length_s"] else ""
        return f"{about['kind']} {_names(list(about['targets']))}{length}  ({about['acknowledged']:,} acknowledged)"
    return f"{what} " + ", ".join(f"{name} {output.cell(value)}" for name, value in about.items())


def _print(report: ChaosReport, *, as_json: bool) -> None:
    if as_json:
        output.json(report.as_dict())
        return
    output.table("", ("", "events"), [(name.replace("_", " "), n) for name, n in report.verdict.as_dict().items()])
    for check in report.failed_checks:
        output.line(f"{check.name}: {check.count:,} violations")
        for row in check.rows:
            output.line("  " + ", ".join(f"{column} {output.cell(value)}" for column, value in row.items()))
    waits = report.waits
    drained = (
        "NOT DRAINED: what counts as lost may have had no time"
        if report.drained_in_s is None
        else f"drained in {report.drained_in_s:g} s"
    )
    output.line(f"seed {report.seed}, {report.faults} faults; {drained}")
    output.line(
        f"longest stall {waits.longest_stall_s:g} s, {waits.longest_stall_beyond_faults_s:g} s beyond its faults"
        f" (at {waits.longest_stall_beyond_faults_at_s:g} s)"
    )
    output.line(f"accepted to stored at most {waits.accepted_to_stored_max_s:g} s")
    output.line(f"{report.events_checked:,} events checked behind the moving cursors")
    if report.stack_traces:
        output.line(f"{report.stack_traces} stack traces in the logs: run it again with --data FOLDER to keep them")
    output.line("VALID: nothing lost, nothing twice." if report.is_valid else "NOT VALID.")
