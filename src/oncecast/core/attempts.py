"""The count of failed attempts, which outlives the process that made them.

PostgreSQL does the same in one statement each: `count_failure`, `insert`, `begin_attempt` and `failed_before`. The
conformance suite compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt to be counted. `name` is its own among all of them."""

    name: str
    arrival: Arrival
    error: str
    next_in_s: float


@dataclass(frozen=True, slots=True)
class CountedFailures:
    """The failed attempts of an event that has not ended; `names` are theirs."""

    attempts: int
    error: str
    """Of the newest."""
    names: frozenset[str]
    due_at_s: float
    """When the next attempt is due."""


def count_failure(counted: CountedFailures | None, failure: FailedAttempt, now_s: float) -> CountedFailures:
    """Count `failure`, once however often it is written, and those before it that its listener could not count."""
    attempts, names = failure.arrival.attempts, frozenset([failure.name])
    if counted is not None:
        attempts = counted.attempts if names <= counted.names else max(counted.attempts + 1, attempts)
        names |= counted.names
    return CountedFailures(attempts, failure.error, names, now_s + failure.next_in_s)


def earlier_attempts(counted: CountedFailures | None, attempt: int, now_s: float) -> EarlierAttempts | None:
    """Return the failed attempts that attempt number `attempt` does not know of, so that it must not begin."""
    if counted is None or counted.attempts < attempt:
        return None
    return EarlierAttempts(counted.attempts, max(0.0, counted.due_at_s - now_s), counted.error)


def attempts_in_all(arrival: Arrival, counted: int) -> int:
    """Return the attempts at an event that ends: as many as its listener knows of, or as all processes counted."""
    return max(arrival.attempts, counted)
