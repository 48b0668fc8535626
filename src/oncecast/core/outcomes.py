"""What becomes of an event in PostgreSQL: decisions that every event store takes alike."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, overload

from oncecast.core.errors import RowLocked


class Outcome(Enum):
    """How an event has ended."""

    STORED = "stored"
    PRESENT = "present"
    """Its row was there, from this very place: somebody (we, perhaps) had ended it."""
    DUPLICATE = "duplicate"
    """The same identity and content from another place."""
    CONFLICT = "conflict"
    """The same identity with other content; kept in `conflicts`."""


class EarlierAttempts(NamedTuple):
    """Failed attempts of an event that this process did not know of: nothing was begun, and its row is not there."""

    attempts: int
    due_in_s: float
    """When the next attempt is due."""
    error: str
    """Of the newest failed attempt."""


class DeadLettered(NamedTuple):
    """How an event has ended that was to become a dead letter, after how many attempts of all processes."""

    outcome: Outcome
    attempts: int


def compared(*, same_place: bool, same_content: bool) -> Outcome:
    """Return the outcome of an event whose identity has a row already, from the same place or with the same content.

    Content that PostgreSQL cannot read is not the same.
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
    """Return what kept an event from being inserted; raises RowLocked if nothing does any more: try it again."""
    if found is None:
        reason = "another session attempts it, or a newer application of the group has replaced this one"
        raise RowLocked(f"the event {id!r} was not inserted: {reason}")
    return found
