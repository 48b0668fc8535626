"""How failed attempts are counted across processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.attempts import (
    CountedFailures,
    FailedAttempt,
    attempts_in_all,
    count_failure,
    earlier_attempts,
)
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts
from tests.support.arrivals import arrivals


def attempted(times: int) -> Arrival:
    (arrival,) = arrivals(1)
    arrival.attempts = times
    return arrival


def failure(name: str, attempt: int, error: str = "no", next_in_s: float = 0.0) -> FailedAttempt:
    return FailedAttempt(name, attempted(attempt), error, next_in_s)


def counted(*failures: FailedAttempt) -> CountedFailures:
    found = None
    for one in failures:
        found = count_failure(found, one, now_s=100.0)
    assert found is not None
    return found


def test_each_failure_counts_once_however_often_it_is_written() -> None:
    assert counted(failure("f1", 1), failure("f1", 1)).attempts == 1
    assert counted(failure("f1", 1), failure("f2", 1), failure("f1", 1)).attempts == 2


def test_the_next_failure_also_counts_those_that_could_not_be_written() -> None:
    assert counted(failure("f3", 3)).attempts == 3
    assert counted(failure("f1", 1), failure("f4", 4)).attempts == 4


def test_the_newest_failure_says_why_and_when_the_next_attempt_is_due() -> None:
    found = counted(failure("f1", 1, "first", 5.0), failure("f2", 2, "second", 7.0))
    assert (found.error, found.due_at_s) == ("second", 107.0)


def test_an_attempt_begins_if_its_process_has_counted_all_failures() -> None:
    assert earlier_attempts(None, 1, now_s=0.0) is None
    assert earlier_attempts(counted(failure("f1", 1)), 2, now_s=0.0) is None


def test_an_attempt_waits_if_its_process_has_not_counted_a_failure() -> None:
    found = counted(failure("f1", 1, next_in_s=5.0))
    assert earlier_attempts(found, 1, now_s=102.0) == EarlierAttempts(1, 3.0, "no")
    assert earlier_attempts(found, 1, now_s=200.0) == EarlierAttempts(1, 0.0, "no")


def test_an_event_that_ends_has_all_attempts_of_all_processes() -> None:
    assert attempts_in_all(attempted(2), 3) == 3
    assert attempts_in_all(attempted(2), 0) == 2


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 6))))
def test_the_count_never_falls_and_is_at_least_what_each_listener_knows(failures: list[tuple[str, int]]) -> None:
    found, written = None, set()
    for name, attempt in failures:
        before = found.attempts if found is not None else 0
        is_new = name not in written
        found = count_failure(found, failure(name, attempt), now_s=0.0)
        written.add(name)
        assert before + is_new <= found.attempts <= max(before + is_new, attempt)
        assert found.names == written
