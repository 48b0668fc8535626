"""Invariants of handlers, checked at every commit: order, follow-ups, and the cost of attempts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from oncecast.core.attempts import FailedAttempt
from oncecast.core.transaction import Transaction
from oncecast.testing.memory.client import MemoryTransaction
from oncecast.testing.memory.journal import Kept
from oncecast.testing.memory.postgres import Session, StoredRow
from tests.simulation.application import FOLLOWED, follow_up_of

if TYPE_CHECKING:
    from tests.simulation.world import World


class Handled:
    """Checks every commit of rows, and every event that is relayed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: dict[str, list[Session]] = defaultdict(list)
        self._caused: set[str] = set()
        """Follow-ups whose cause was stored; if PostgreSQL has lost it since, they may have been relayed already."""
        self._failures: dict[str, set[str]] = defaultdict(set)
        """By id: the names of the failed attempts that listeners counted or tried to count."""
        self.violations: list[str] = []

    # --- order ----------------------------------------------------------------------------------------------

    def entered(self, key: str, tx: Transaction) -> None:
        """Check that no handler of the key runs in another session, whether its process lives, is frozen or dead."""
        assert isinstance(tx, MemoryTransaction)
        assert tx.session is not None
        others = [session for session in self._under_way[key] if not session.ended.is_set()]
        if not tx.session.ended.is_set():
            if others:
                self.violations.append(f"order: two of key {key!r} at a time, by {tx.session.token}")
            self._under_way[key] = [*others, tx.session]

    def _check_order(self, row: StoredRow) -> None:
        """Check that every earlier event of the key in its journal has a row with its place there.

        Excepted are events that an operator gave up, and events behind a saved cursor: a reader that starts there
        does not know them, and PostgreSQL may have lost row and cursor since. A place of a divergent history cannot
        be checked.
        """
        kept = next(kept for kept in self._world.kept.values() if kept.name == row.journal)
        if not _has_place(kept, row):
            return
        watch, key = self._world.watch, _key(row.id)
        rows = {row.id for row in self._world.postgres.tables.rows.values()} | watch.nobodys
        for batch in kept.batches:
            if batch.first_offset >= row.offset:
                break
            for offset, id_ in enumerate(watch.ids_of(batch)[: row.offset - batch.first_offset], batch.first_offset):
                if _key(id_) == key and id_ not in rows and not watch.was_passed(kept, offset):
                    self.violations.append(f"order: {row.id!r} has a row, and {id_!r} before it has none")

    # --- follow-ups -----------------------------------------------------------------------------------------

    def committed(self, session: Session, new: Sequence[StoredRow]) -> None:
        """Check committed rows; those in `new` are new."""
        for row in session.rows.values():
            follow_up = follow_up_of(row.type, row.id)
            if follow_up is not None and row.status == "stored":
                self._caused.add(follow_up)
        for row in new:
            if row.type.startswith("ordered"):
                self._check_order(row)
            failures = len(self._failures[row.id])
            if row.attempts > failures + (row.status == "stored"):
                self.violations.append(f"attempts: {row.id!r} was charged {row.attempts}, and {failures} failed")

    def fails(self, failure: FailedAttempt) -> None:
        """Record that a listener is about to count a failed attempt."""
        self._failures[failure.arrival.id].add(failure.name)

    def relayed(self, ids: Sequence[str]) -> None:
        """Check that the causes of relayed events are committed."""
        if early := set(ids) - self._caused:
            self.violations.append(f"follow-ups: {sorted(early)} are published, and their causes were never stored")

    def due(self) -> set[str]:
        """Return the ids of follow-ups that must have a row: one per stored cause, unless it was given up."""
        rows = self._world.postgres.tables.rows.values()
        due = {follow_up_of(row.type, row.id) for row in rows if row.status == "stored"}
        return {id_ for id_ in due if id_ is not None} - self._world.watch.nobodys

    def wrong_follow_ups(self) -> Iterator[str]:
        """Yield violations: each stored cause has exactly one follow-up, and there are no others."""
        tables = self._world.postgres.tables
        there = {row.id for row in tables.rows.values() if row.type == FOLLOWED}
        if missing := self.due() - there:
            yield f"follow-ups: {sorted(missing)} were emitted, and have no row"
        if false := there - self._caused:
            yield f"follow-ups: {sorted(false)} have a row, and their causes were never stored"


def _key(id: str) -> str | None:
    type_, _, rest = id.partition(":")
    return rest.partition(":")[0] if type_.startswith("ordered") else None


def _has_place(kept: Kept, row: StoredRow) -> bool:
    """Whether the journal still has the event that the row was read from, and not a divergent history."""
    ends = [epoch.first - 1 for epoch in kept.epochs[1:]] + [kept.batches[-1].last_offset if kept.batches else 0]
    return any(epoch.epoch == row.epoch and row.offset <= end for epoch, end in zip(kept.epochs, ends, strict=True))
