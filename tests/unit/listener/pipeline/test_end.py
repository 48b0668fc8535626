"""Ended events are reported by their outcome."""

from __future__ import annotations

import pytest

from oncecast.core.errors import CrashLoop, Reject
from oncecast.core.outcomes import Outcome
from oncecast.core.telemetry import ConflictsFound, DeadLettered, Duplicates, Persisted
from oncecast.listener.pipeline.end import telemetry_of
from tests.support.arrivals import arrivals


def test_all_events_of_one_outcome_are_one_telemetry_event() -> None:
    outcomes = [Outcome.STORED, Outcome.PRESENT, Outcome.CONFLICT, Outcome.STORED]
    assert list(telemetry_of(arrivals(4), outcomes, now_s=3.5)) == [
        Persisted(2, "1", "4", {"tick": 2}, waited_s=((3.5, 2),)),
        Duplicates(1, "2", "2", {"tick": 1}),
        ConflictsFound(1, "3", "3", {"tick": 1}),
    ]


def test_an_event_that_was_attempted_twice_is_persisted_after_a_retry() -> None:
    events = arrivals(2)
    events[1].attempts = 2
    assert list(telemetry_of(events, [Outcome.STORED] * 2, now_s=3.5)) == [
        Persisted(2, "1", "2", {"tick": 2}, after_retry=True, waited_s=((3.5, 2),))
    ]


def test_an_event_that_had_ended_is_reported_again_only_if_it_is_stored() -> None:
    ended, stored = events = arrivals(2)
    ended.gone = stored.gone = True
    outcomes = [Outcome.DUPLICATE, Outcome.STORED]
    assert list(telemetry_of(events, outcomes, now_s=3.5)) == [
        Persisted(1, "2", "2", {"tick": 1}, waited_s=((3.5, 1),))
    ]


@pytest.mark.parametrize(
    ("error", "cause"), [(Reject("x"), "rejected"), (CrashLoop("x"), "crashes"), (ValueError("x"), "retries")]
)
def test_a_dead_letter_is_reported_with_its_cause(error: Exception, cause: str) -> None:
    (event,) = arrivals(1)
    event.terminal_error = error
    (reported,) = telemetry_of([event], [Outcome.STORED], now_s=3.5)
    assert isinstance(reported, DeadLettered)
    assert (reported.id, reported.cause, reported.type) == ("1", cause, "tick")
