"""What has to hold of what handlers do, looked at with every commit: order, follow-ups, and what attempts cost."""

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
    """Looks at every commit of rows, and at every event that is relayed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: dict[str, list[Session]] = defaultdict(list)
        self._caused: set[str] = set()
        """Those whose cause was stored. Should PostgreSQL have lost it since, they may be on their way already."""
        self._failures: dict[str, set[str]] = defaultdict(set)
        """Of an id, the names of the failed attempts that listeners counted, or tried to."""
        self.violations: list[str] = []

    # --- order ----------------------------------------------------------------------------------------------

    def entered(self, key: str, tx: Transaction) -> None:
        """A handler begins. None of its key is under way in another session, be its process alive, frozen or dead."""
        assert isinstance(tx, MemoryTransaction)
        assert tx.session is not None
        others = [session for session in self._under_way[key] if not session.ended.is_set()]
        if not tx.session.ended.is_set():
            if others:
                self.violations.append(f"order: two of key {key!r} at a time, by {tx.session.token}")
            self._under_way[key] = [*others, tx.session]

    def _check_order(self, row: StoredRow) -> None:
        """Every earlier one of its key in its journal, at the place that it records, has its row.

        But none is asked for of what an operator gave up, nor of what a cursor once stood behind: who begins there
        knows nothing of it, and PostgreSQL may have lost the row and the cursor since. And where the place is of a
        future of the journal that is lost, there is nothing to look at any more.
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
        """Rows are there; those in `new` were not before."""
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
        """A listener is about to count a failed attempt."""
        self._failures[failure.arrival.id].add(failure.name)

    def relayed(self, ids: Sequence[str]) -> None:
        """These leave the outbox: their causes are committed."""
        if early := set(ids) - self._caused:
            self.violations.append(f"follow-ups: {sorted(early)} are published, and their causes were never stored")

    def due(self) -> set[str]:
        """Those that have to have a row in the end: one of each cause that is stored, unless it was given up."""
        rows = self._world.postgres.tables.rows.values()
        due = {follow_up_of(row.type, row.id) for row in rows if row.status == "stored"}
        return {id_ for id_ in due if id_ is not None} - self._world.watch.nobodys

    def wrong_follow_ups(self) -> Iterator[str]:
        """One of each cause that is stored, and none besides."""
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
    """Whether the journal as it is now has what the row was read from, and not another future."""
    ends = [epoch.first - 1 for epoch in kept.epochs[1:]] + [kept.batches[-1].last_offset if kept.batches else 0]
    return any(epoch.epoch == row.epoch and row.offset <= end for epoch, end in zip(kept.epochs, ends, strict=True))
