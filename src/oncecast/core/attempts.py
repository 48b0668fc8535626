"""Count failed attempts across processes.

PostgreSQL does the same in one statement each: `count_failure`, `insert`, `begin_attempt` and `failed_before`. The
conformance suite compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt to be counted. `name` is unique among all failed attempts."""

    name: str
    arrival: Arrival
    error: str
    next_in_s: float


@dataclass(frozen=True, slots=True)
class CountedFailures:
    """The failed attempts of an event that has not ended, and their `names`."""

    attempts: int
    error: str
    """The error of the newest failed attempt."""
    names: frozenset[str]
    due_at_s: float
    """When the next attempt is due."""


def count_failure(counted: CountedFailures | None, failure: FailedAttempt, now_s: float) -> CountedFailures:
    """Count `failure` and the earlier failures that its listener could not count. Safe to repeat."""
    attempts, names = failure.arrival.attempts, frozenset([failure.name])
    if counted is not None:
        attempts = counted.attempts if names <= counted.names else max(counted.attempts + 1, attempts)
        names |= counted.names
    return CountedFailures(attempts, failure.error, names, now_s + failure.next_in_s)


def earlier_attempts(counted: CountedFailures | None, attempt: int, now_s: float) -> EarlierAttempts | None:
    """Return the failed attempts that the process about to begin `attempt` has not counted; None if it may begin."""
    if counted is None or counted.attempts < attempt:
        return None
    return EarlierAttempts(counted.attempts, max(0.0, counted.due_at_s - now_s), counted.error)


def attempts_in_all(arrival: Arrival, counted: int) -> int:
    """Return the attempts at an event that ends: the larger of its listener's count and the common count."""
    return max(arrival.attempts, counted)
