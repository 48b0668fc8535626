"""Outcomes of events in PostgreSQL; every event store uses these functions."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, overload

from oncecast.core.errors import RowLocked


class Outcome(Enum):
    """How an event has ended."""

    STORED = "stored"
    PRESENT = "present"
    """The row exists, from this very place: this or another listener had ended the event."""
    DUPLICATE = "duplicate"
    """The same identity and content from another place."""
    CONFLICT = "conflict"
    """The same identity with other content, kept in `conflicts`."""


class EarlierAttempts(NamedTuple):
    """Failed attempts of an event that this process had not counted: no attempt was begun, and there is no row."""

    attempts: int
    due_in_s: float
    """When the next attempt is due."""
    error: str
    """The error of the newest failed attempt."""


class DeadLetterResult(NamedTuple):
    """The outcome of writing a dead letter, and the number of attempts by all processes."""

    outcome: Outcome
    attempts: int


def compared(*, same_place: bool, same_content: bool) -> Outcome:
    """Return the outcome of an event whose identity already has a row.

    Content that PostgreSQL cannot read is never the same.
    """
    if same_place:
        return Outcome.PRESENT
    # rule: an event with other content under a used identity is a conflict
    return Outcome.DUPLICATE if same_content else Outcome.CONFLICT


@overload
def obstacle(found: Outcome | None, id: str) -> Outcome: ...
@overload
def obstacle(found: Outcome | EarlierAttempts | None, id: str) -> Outcome | EarlierAttempts: ...
def obstacle(found: Outcome | EarlierAttempts | None, id: str) -> Outcome | EarlierAttempts:
    """Return what kept an event from being inserted. Raises RowLocked if nothing does any more, to try again."""
    if found is None:
        reason = "another session is attempting it, or a newer application of the group has replaced this one"
        raise RowLocked(f"event {id!r} was not inserted: {reason}")
    return found
