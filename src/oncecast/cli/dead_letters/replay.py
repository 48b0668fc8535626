"""The command `dead-letters replay`: replay dead letters at a given rate, each once, and report results."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.dead_letters.requests import ReplayRequests
from oncecast.cli.dead_letters.selection import (
    Choice,
    as_of_now,
    check_chosen,
    count,
    dead_letters_of,
    plan,
)
from oncecast.cli.entries import (
    DEAD_LETTER,
    FAILURES_SHOWN,
    INTERRUPTED_STATUS,
    REPLAY_AT_ONCE,
    All,
    failed,
)
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError, OncecastError
from oncecast.http.operator_api import REPLAY_MAX

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

PLAIN_INTERVAL_S = 5.0
SOON_S = 2.0
"""Requests grow while they take less than this."""
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?")
_PERIOD_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

Rate = Annotated[str | None, Parameter(help="The maximum rate: 50/s, 300/m, 1000/h.", show_default=False)]


class Pace:
    """Limits a replay to `per_s` events per second, without a burst after a slow request.

    Requests grow while they are answered soon, so that slow handlers do not exceed their deadline.
    """

    def __init__(
        self,
        per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_s = per_s
        self._clock = clock
        self._sleep = sleep
        self._next_s = clock()
        self._at_once = REPLAY_AT_ONCE

    @property
    def at_once(self) -> int:
        """The maximum number of events in one request."""
        return self._at_once if self._per_s is None else max(1, min(self._at_once, int(self._per_s)))

    def answered(self, took_s: float) -> None:
        """Note that a request is answered: the next may be larger if it took little time."""
        larger = min(2 * self._at_once, REPLAY_MAX)
        self._at_once = larger if took_s < SOON_S else REPLAY_AT_ONCE

    def wait(self, events: int) -> None:
        """Sleep until the next request, of `events` events, may be sent."""
        if self._per_s is None:
            return
        if (left_s := self._next_s - self._clock()) > 0:
            self._sleep(left_s)
        self._next_s = max(self._next_s, self._clock()) + events / self._per_s


class ReplayRun:
    """The results so far. Prints each failure; with JSON, each result."""

    def __init__(self, total: int, *, as_json: bool) -> None:
        self.total = total
        self.outcomes: Counter[str] = Counter()
        self.stopped: str | None = None
        self._as_json = as_json

    @property
    def tried(self) -> int:
        """The number of replays that were requested."""
        return self.outcomes.total()

    def note(self, results: Iterable[dict[str, Any]]) -> None:
        """Count and print the results of one request."""
        for result in results:
            self.outcomes[result["outcome"]] += 1
            if self._as_json:
                output.json(result)
            elif result["outcome"] != "stored":
                self._print_failure(result)

    def _print_failure(self, result: dict[str, Any]) -> None:
        failures = self.tried - self.outcomes["stored"]
        if failures <= FAILURES_SHOWN:
            output.note(failed(result["id"], result))
        elif failures == FAILURES_SHOWN + 1:
            output.note("Further ones are only counted; 'oncecast dead-letters causes' shows their causes.")

    def stop(self, reason: str, in_flight: int) -> None:
        """End the run early for `reason`; the result of `in_flight` events is unknown."""
        self.stopped = reason
        self.outcomes["unknown"] += in_flight

    def __str__(self) -> str:
        others = [f"{self.outcomes[name]:,} {name.replace('_', ' ')}" for name in ("failed", "not_dead", "unknown")]
        parts = [f"{self.outcomes['stored']:,} of {max(self.total, self.tried):,} stored"]
        parts += [text for text in others if not text.startswith("0 ")]
        if self.stopped is not None and self.total > self.tried:
            parts.append(f"{self.total - self.tried:,} not tried")
        return "; ".join(parts[:2]) + "".join(f", {text}" for text in parts[2:]) + "."

    def end(self) -> int:
        """Print the result; return the exit status."""
        if self.stopped is not None:
            output.error(self.stopped)
        if self._as_json:
            names = ("stored", "failed", "not_dead", "unknown")
            counts = {name: self.outcomes[name] for name in names}
            output.json({"asked": max(self.total, self.tried), **counts, "stopped": self.stopped})
        elif not self.total and not self.tried:
            output.line("There is no such dead letter.")
        else:
            output.line(str(self))
        if self.stopped == "interrupted":
            return INTERRUPTED_STATUS
        return 0 if self.stopped is None and self.outcomes["stored"] == self.tried else 1


def replay(
    *ids: str,
    all: All = False,
    choice: Choice | None = None,
    rate: Rate = None,
    dry_run: bool = False,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Process dead letters again: each is stored together with what its handlers write, or stays dead.

    Pass ids, flags that select, or --all. Each dead letter is tried once; a second replay of a stored event changes
    nothing. The exit status is 0 if all are stored, and 130 after Ctrl-C, when the progress is printed.

    Parameters
    ----------
    ids
        The ids of the events.
    all
        All dead letters.
    dry_run
        Only print the number of dead letters and their causes.
    """
    choice = choice or Choice()
    check_chosen("replay", ids, choice, all=all)
    pace = Pace(_per_s(rate))
    selections = choice.selections(ids)
    with operator("listener", listener, data) as asked:
        named = [{"id": id_, "source": choice.source} for id_ in dict.fromkeys(ids)]
        if dry_run:
            return plan(count(asked, selections), "replay", as_json=output.wants_json(json))
        if named and not choice.narrows:
            run = ReplayRun(len(named), as_json=output.wants_json(json))
            _replay(asked, named, pace, run)
        else:
            selections = as_of_now(asked, selections)
            run = ReplayRun(count(asked, selections, limit=1).dead_letters, as_json=output.wants_json(json))
            found = ({"id": x["id"], "source": x["source"]} for x in dead_letters_of(asked, selections))
            _replay(asked, found, pace, run)
    return run.end()


def _replay(asked: AdminClient, chosen: Iterable[dict[str, Any]], pace: Pace, run: ReplayRun) -> None:
    """Replay in small requests, over all listeners; the answer to each has one result per dead letter."""
    left = iter(chosen)
    again: list[dict[str, Any]] = []
    requests = ReplayRequests(asked)
    failures: list[Exception] = []
    unknown = 0
    try:
        with _progress(run) as tell:
            while True:
                try:
                    while not failures and requests.has_room and (batch := _next(again, left, pace.at_once)):
                        pace.wait(len(batch))
                        requests.send(batch)
                except OncecastError as error:  # of the list
                    failures.append(error)
                if not requests.in_flight:
                    break
                answer = requests.next_answer()
                if isinstance(answer.body, dict):
                    pace.answered(answer.took_s)
                    run.note(answer.body["results"])
                    tell()
                elif answer.was_refused and requests.has_listeners:
                    again += answer.events
                else:
                    failures.append(answer.body)
                    unknown += 0 if answer.was_refused else len(answer.events)
    except KeyboardInterrupt:
        run.stop("interrupted", unknown + requests.in_flight)
        return
    if failures:
        if not run.tried or not isinstance(failures[0], OncecastError):
            raise failures[0]
        run.stop(str(failures[0]), unknown)


def _next(again: list[dict[str, Any]], left: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the next dead letters: first those that a listener could not replay."""
    batch = again[:count]
    del again[:count]
    return batch + list(islice(left, count - len(batch)))


@contextmanager
def _progress(run: ReplayRun) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr if it is a terminal, else print a line at intervals."""
    if not sys.stderr.isatty():
        yield _plain(run)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replaying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=run.total)
        yield lambda: progress.update(task, completed=run.tried)


def _plain(run: ReplayRun) -> Callable[[], None]:
    reported_at_s = time.monotonic()

    def tell() -> None:
        nonlocal reported_at_s
        if time.monotonic() - reported_at_s >= PLAIN_INTERVAL_S:
            reported_at_s = time.monotonic()
            output.note(
                f"{run.tried:,} of {DEAD_LETTER.count(run.total)} replayed, {run.outcomes['stored']:,} stored"
            )

    return tell


def _per_s(rate: str | None) -> float | None:
    if rate is None:
        return None
    match = _RATE.fullmatch(rate.replace(" ", ""))
    if match is None or not float(match[1]):
        raise ConfigError(f"invalid value for --rate: {rate[:40]!r} (expected a rate such as 50/s or 300/m)")
    return float(match[1]) / _PERIOD_S[match[2] or "s"]
