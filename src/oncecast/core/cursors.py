"""Decide how a group's saved cursor in a journal may move; every event store uses these functions.

A store locks and reads the saved cursor, reads the recorded ranges, calls one of these functions, and writes its
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oncecast.core.event import Cursor
from oncecast.core.ranges import EndedRange
from oncecast.core.wire import Epoch, epoch_of, has_heard_of, resume_after


class SavedCursor(NamedTuple):
    """A group's cursor in a journal as saved in PostgreSQL, with the epochs known at that time."""

    cursor: Cursor
    epochs: list[Epoch]


class Save(NamedTuple):
    """The result of a save. `saved` is the cursor in PostgreSQL; None if there is none, it is locked, or unknown."""

    saved: Cursor | None
    missing: bool
    """Whether the caller must read again from `saved`: ranges are missing, or the journal has other epochs."""


class SaveDecision(NamedTuple):
    """The answer to the caller, and the cursor to write; None leaves it unchanged."""

    answer: Save
    write: SavedCursor | None = None


class JournalGap(NamedTuple):
    """Offsets that the group will never read."""

    epoch: str
    first: int
    last: int


class GapDecision(NamedTuple):
    """The resulting cursor (None: unknown to the caller), and what to write in one transaction."""

    cursor: Cursor | None
    gap: JournalGap | None = None
    write: SavedCursor | None = None


def cursor_at(epochs: Sequence[Epoch], offset: int) -> Cursor:
    """Return the cursor of `offset` in a journal with these epochs."""
    return Cursor(epoch_of(epochs, max(offset, 1)), offset)


def beginning(epochs: Sequence[Epoch]) -> SavedCursor:
    """Return the cursor of a group that has read nothing."""
    return _saved_at(epochs, 0)


def offset_in(saved: SavedCursor, epochs: Sequence[Epoch]) -> int | None:
    """Return the saved offset in terms of `epochs`; None if it was saved with an epoch that they lack.

    None means that one of the two histories has diverged; the saved cursor does not show which.
    """
    return resume_after(saved.cursor, saved.epochs, epochs) if has_heard_of(epochs, saved.epochs) else None


def reach(start: int, epochs: Sequence[Epoch], recorded: Sequence[EndedRange]) -> int:
    """Return how far the recorded ranges (by first offset) reach without a gap from offset `start` on."""
    reached = start
    for each in recorded:
        # rule: a cursor passes only recorded ranges
        if each.first > reached + 1:
            break
        # rule: a range of a divergent history proves nothing
        if each.epoch == epoch_of(epochs, each.first):
            reached = max(reached, each.last)
    return reached


def decide_save(
    saved: SavedCursor, epochs: Sequence[Epoch], reached: int, *, position: Cursor, proved: int
) -> SaveDecision:
    """Decide a save where the recorded ranges reach up to offset `reached`.

    The caller knows that the cursor was saved at `position`, and that the ranges up to offset `proved` were recorded.
    If that is not so any more, PostgreSQL went back to an older state.
    """
    start = offset_in(saved, epochs)
    if start is None:
        return SaveDecision(Save(None, missing=True))
    cursor = cursor_at(epochs, reached)
    # rule: an older state of PostgreSQL is noticed
    missing = start < position.offset or reached < proved
    moved = SavedCursor(cursor, list(epochs)) if reached > start else None
    return SaveDecision(Save(cursor, missing=missing), moved)


def decide_unlocked_save(saved: SavedCursor | None, epochs: Sequence[Epoch]) -> Save:
    """Decide a save while another listener has the cursor locked: write nothing."""
    if saved is None:
        return Save(None, missing=False)
    start = offset_in(saved, epochs)
    return Save(None, missing=True) if start is None else Save(cursor_at(epochs, start), missing=False)


def decide_adoption(
    saved: SavedCursor | None, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]
) -> SavedCursor | None:
    """Return the cursor in terms of `epochs` if it was saved with exactly the diverged `instead_of`; else None."""
    if saved is None or saved.epochs != list(instead_of):
        return None
    return _saved_at(epochs, resume_after(saved.cursor, saved.epochs, epochs))


def decide_gap(saved: SavedCursor | None, epochs: Sequence[Epoch], *, first: int, after: int) -> GapDecision:
    """Decide how a cursor that has reached `after` passes the offsets before `first`, which the journal has lost."""
    start = None if saved is None else offset_in(saved, epochs)
    if start is None:
        return GapDecision(None)
    if start + 1 >= first or start < after:
        return GapDecision(cursor_at(epochs, start))
    passed = _saved_at(epochs, first - 1)
    return GapDecision(passed.cursor, JournalGap(epoch_of(epochs, start + 1), start + 1, first - 1), passed)


def _saved_at(epochs: Sequence[Epoch], offset: int) -> SavedCursor:
    return SavedCursor(cursor_at(epochs, offset), list(epochs))
