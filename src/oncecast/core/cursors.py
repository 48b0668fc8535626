"""Decide how a group's saved cursor in a journal may move; every event store uses these functions.

A store locks and reads the saved cursor, looks rows up, calls one of these functions, and writes its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oncecast.core.event import Arrival, Cursor
from oncecast.core.wire import Epoch, epoch_of, has_heard_of, resume_after


class SavedCursor(NamedTuple):
    """A group's cursor in a journal as saved in PostgreSQL, with the epochs known at that time."""

    cursor: Cursor
    epochs: list[Epoch]


class Save(NamedTuple):
    """The result of a save. `saved` is the cursor in PostgreSQL; None if there is none, it is locked, or unknown."""

    saved: Cursor | None
    missing: bool
    """Whether the caller must read again from `saved`: the next row is missing, or the journal has other epochs."""


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


def decide_candidates(
    saved: SavedCursor, epochs: Sequence[Epoch], ended: Sequence[Arrival], *, position: Cursor
) -> list[Arrival]:
    """Return the events of `ended` (dense after `position`) whose rows must be looked up to move the cursor.

    The list is empty if the cursor is before `position`: PostgreSQL went back to an older state, and the events in
    between are not at hand.
    """
    start = offset_in(saved, epochs)
    if start is None or start < position.offset:
        return []
    return [arrival for arrival in ended if arrival.offset > start]


def decide_save(
    saved: SavedCursor, epochs: Sequence[Epoch], candidates: Sequence[Arrival], shown: int, *, position: Cursor
) -> SaveDecision:
    """Decide a save where the first `shown` of `candidates` have rows and the next one has none."""
    start = offset_in(saved, epochs)
    if start is None:
        return SaveDecision(Save(None, missing=True))
    if not shown:
        return SaveDecision(Save(cursor_at(epochs, start), missing=start < position.offset or bool(candidates)))
    last = candidates[shown - 1]
    reached = Cursor(last.epoch, last.offset)
    return SaveDecision(Save(reached, missing=shown < len(candidates)), SavedCursor(reached, list(epochs)))


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
