"""The end stage: how ended events are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from oncecast.core.errors import CrashLoop, DataInvalid, Reject, error_text
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.telemetry import (
    ConflictsFound,
    DeadLettered,
    Duplicates,
    Persisted,
    TelemetryEvent,
    TerminalCause,
)


def telemetry_of(
    arrivals: Sequence[Arrival], outcomes: Sequence[Outcome], *, now_s: float
) -> Iterator[TelemetryEvent]:
    """Yield the telemetry events of ended events: one for all with the same outcome. `now_s` is the Unix time."""
    by_outcome: dict[Outcome, list[Arrival]] = {}
    for arrival, outcome in zip(arrivals, outcomes, strict=True):
        if outcome is Outcome.STORED or not arrival.gone:
            by_outcome.setdefault(outcome, []).append(arrival)
    for outcome, group in by_outcome.items():
        batch = (len(group), group[0].id, group[-1].id, Counter(a.type for a in group))
        match outcome:
            case Outcome.STORED if group[0].terminal_error is not None:
                yield _dead_lettered(group[0], group[0].terminal_error)
            case Outcome.STORED:
                yield Persisted(
                    *batch,
                    after_retry=any(a.attempts > 1 or a.retried for a in group),
                    waited_s=tuple(
                        (max(0.0, now_s - at_us / 1e6), n) for at_us, n in Counter(a.at_us for a in group).items()
                    ),
                )
            case Outcome.CONFLICT:
                yield ConflictsFound(*batch)
            case _:
                yield Duplicates(*batch)


def _dead_lettered(dead: Arrival, error: BaseException) -> DeadLettered:
    causes: dict[type[BaseException], TerminalCause] = {DataInvalid: "data", Reject: "rejected", CrashLoop: "crashes"}
    cause: TerminalCause = next((cause for kind, cause in causes.items() if isinstance(error, kind)), "retries")
    return DeadLettered(dead.id, error_text(error), cause, dead.type)
