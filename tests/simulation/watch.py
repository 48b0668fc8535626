"""Invariants, checked after every step that could violate them, and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oncecast.core.attempts import FailedAttempt
from oncecast.core.clock import Clock
from oncecast.core.cursors import SavedCursor
from oncecast.core.event import DEFAULT_SOURCE
from oncecast.core.journal import JournalBatch
from oncecast.core.wire import decode_heads, epoch_of, resume_after
from oncecast.testing.memory import MemoryEvents
from oncecast.testing.memory.call import Act, ServerCall
from oncecast.testing.memory.journal import Kept, MemoryJournal
from oncecast.testing.memory.leases import Lease
from oncecast.testing.memory.postgres import MemoryPostgres, Session
from tests.simulation.application import GROUP
from tests.simulation.loop import owned_by

if TYPE_CHECKING:
    from tests.simulation.world import World


class Watch:
    """Checks every saved cursor, every commit and every deletion in a journal."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids: dict[bytes, list[str]] = {}
        self._seen: dict[str, SavedCursor] = {}
        self.postgres_went_back = False
        self._reached: dict[str, int] = {}
        self._farthest: dict[str, int] = {}
        self._committed: set[str] = set()
        """Identities that have a row, or had one before PostgreSQL was restored."""
        self.violations: list[str] = []
        self.ahead: set[str] = set()
        self.nobodys: set[str] = set()
        """Ids that an operator gave up: they may have a row or not."""
        self.given_up: dict[tuple[str, int], str] = {}
        """Those that were given up, by journal and offset."""

    def ids_of(self, batch: JournalBatch) -> list[str]:
        """Return the ids of a batch in order; a gap has none."""
        if batch.body not in self._ids:
            heads = decode_heads(batch.body) if not batch.is_gap else []
            self._ids[batch.body] = [head.id for head in heads]
        return self._ids[batch.body]

    def check(self) -> None:
        """Check the cursors that were saved since the last check."""
        cursors = self._world.postgres.tables.cursors
        for kept in self._world.kept.values():
            saved = cursors.get(kept.name)
            if saved is not None and saved is not self._seen.get(kept.name):
                self._seen[kept.name] = saved
                self._check_cursor(kept, saved)

    def has_gone_back(self) -> None:
        """Record that PostgreSQL or a journal was restored: cursors may go back too."""
        self._reached.clear()

    def was_passed(self, kept: Kept, offset: int) -> bool:
        """Whether a cursor ever passed this offset, including cursors that PostgreSQL has lost since."""
        return offset <= self._farthest.get(kept.name, 0)

    def check_all(self) -> None:
        """Check every cursor."""
        self._seen.clear()
        self.check()

    def _check_cursor(self, kept: Kept, saved: SavedCursor) -> None:
        """Check that a cursor passed no event without a row, and went back only with the database or the journal."""
        last = resume_after(saved.cursor, saved.epochs, kept.epochs)
        if last < self._reached.get(kept.name, 0):
            self.violations.append(f"cursor: it went back from {self._reached[kept.name]} to {last}")
        self._reached[kept.name] = last
        self._farthest[kept.name] = max(last, self._farthest.get(kept.name, 0))
        for batch in kept.batches:
            if batch.first_offset > last:
                break
            passed = self.ids_of(batch)[: last + 1 - batch.first_offset]
            self.ahead.update(id_ for id_ in passed if not self._is_ended(id_) and id_ not in self.nobodys)

    def _is_ended(self, id: str) -> bool:
        return f"{DEFAULT_SOURCE}\0{id}" in self._world.postgres.tables.rows

    def over_leases(self, token: str, call: ServerCall) -> ServerCall:
        """Check a listener's calls: it changes only its own leases, or frees others', and marks only rows."""

        async def watched(act: Act) -> Any:
            def act_watched() -> Any:
                before = dict(self._world.redis.leases)
                result = act()
                if self._world.redis.leases != before:
                    self._check_leases(token, before)
                return result

            return await call(act_watched)

        return watched

    def _check_leases(self, token: str, before: dict[str, Lease]) -> None:
        """Lease entries are never changed in place: a change is another object."""
        leases, now_s = self._world.redis.leases, self._world.loop.time()
        for place, lease in leases.items():
            if lease.is_done and lease is not before.get(place):
                for identity in self._identities_at(place) - self._committed:
                    self.violations.append(f"leases: {token} marked {place!r}, but {identity!r} has never had a row")
        for place, held in before.items():
            if held.owner in (None, token) or held.until_s <= now_s:
                continue
            after = leases.get(place)
            if after is None and held.takeovers == 0:
                continue  # freed by a takeover that counts nothing
            if after is None or not (after.is_free or after.owner == held.owner):
                self.violations.append(f"leases: {token} touched {place!r} of {held.owner}")

    def _identities_at(self, place: str) -> set[str]:
        """Return the identities of a range, as far as its journal still has them."""
        epoch, _, offsets = place.rpartition(":")
        first, last = map(int, offsets.split("-"))
        return {
            f"{DEFAULT_SOURCE}\0{id_}"
            for kept in self._world.kept.values()
            if epoch_of(kept.epochs, first) == epoch
            for batch in kept.batches
            for offset, id_ in enumerate(self.ids_of(batch), batch.first_offset)
            if first <= offset <= last
        }

    def committed(self, session: Session) -> None:
        """Check at each commit that no effect exists twice: a restore to an older state would hide it."""
        self._committed |= session.rows.keys()
        effects = self._world.postgres.tables.effects
        if doubled := [id_ for id_ in session.effects if effects[id_] > 1]:
            self.violations.append(f"doubled: {doubled}")

    def retired(self, kept: Kept, batches: Sequence[JournalBatch]) -> None:
        """Check that deleted events have a row, unless an operator had the group forgotten."""
        self._world.injected["retention"] += 1
        if GROUP in kept.groups and kept.groups[GROUP].forgotten:
            for batch in batches:
                self.give_up(kept.name, batch)
            return
        gone = {id_ for batch in batches for id_ in self.ids_of(batch) if not self._is_ended(id_)} - self.nobodys
        if gone:
            self.violations.append(f"retired: {sorted(gone)} had no row")

    def give_up(self, journal: str, batch: JournalBatch) -> None:
        """Record that an operator gave up a batch."""
        ids = self.ids_of(batch)
        self._world.tell(f"offsets {batch.first_offset} to {batch.last_offset} are given up")
        self.given_up |= {(journal, offset): id_ for offset, id_ in enumerate(ids, batch.first_offset)}
        self.nobodys.update(ids)
        self._world.publishers.acknowledged.difference_update(ids)

    def lost_conflicts(self) -> Iterator[str]:
        """Yield ids that were acknowledged with two contents and have no conflict.

        Conflicts that PostgreSQL loses are not recreated: their rows exist, so cursors pass them.
        """
        if self.postgres_went_back:
            return
        kept = {identity for identity, _, _ in self._world.postgres.tables.conflicts}
        for id_, contents in self._world.publishers.contents.items():
            if len(contents) > 1 and id_ not in self.nobodys and f"{DEFAULT_SOURCE}\0{id_}" not in kept:
                yield f"conflicts: that of {id_!r} is kept nowhere"

    def wrong_gaps(self) -> Iterator[str]:
        """Yield gaps that are missing or unexpected: what was given up unread must be recorded, and nothing else."""
        world = self._world
        recorded = {
            (journal, offset)
            for journal, _, first, last, _ in world.postgres.tables.gaps
            for offset in range(first, last + 1)
        }
        # A restored journal may have again what was given up, even at another offset.
        come_back = {world.kept[producer].name for producer in world.publishers.restores} & self._given_up_of()
        gone = {place for place, id_ in self.given_up.items() if not self._is_ended(id_)}
        if missing := sorted(place for place in gone - recorded if place[0] not in come_back):
            yield f"gaps: {missing} are recorded by nobody"
        if false := sorted(place for place in recorded - self.given_up.keys() if place[0] not in come_back):
            yield f"gaps: {false} were never given up"

    def _given_up_of(self) -> set[str]:
        return {journal for journal, _ in self.given_up}


class WatchedJournal(MemoryJournal):
    """A journal that reports deletions to the watch."""

    def __init__(self, clock: Clock, kept: Kept, watch: Watch) -> None:
        super().__init__(clock, kept)
        self._watch = watch

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Delete old batches up to `upto`, but keep `keep_bytes`."""
        before = list(self._kept.batches)
        await super().retire(upto, before_us=before_us, keep_bytes=keep_bytes)
        if gone := before[: len(before) - len(self._kept.batches)]:
            self._watch.retired(self._kept, gone)


class WatchedEvents(MemoryEvents):
    """An event store that reports counted failures to the watch."""

    def __init__(self, world: World, **client: Any) -> None:
        super().__init__(world.postgres, **client)
        self._world = world

    async def count_failure(self, failure: FailedAttempt) -> int:
        """Count a failed attempt once; return the number of failed attempts."""
        self._world.handled.fails(failure)
        return await super().count_failure(failure)


class WatchedPostgres(MemoryPostgres):
    """A PostgreSQL that reports commits to the watch. A lost client leaves its session behind for a while."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def commit(self, session: Session) -> bool:
        """Commit, and report the committed rows to the watch."""
        new = [row for identity, row in session.rows.items() if identity not in self.tables.rows]
        committed = super().commit(session)
        if committed:
            self._world.watch.committed(session)
            self._world.handled.committed(session, new)
        return committed

    def abandon(self, session: Session) -> None:
        """Keep a lost client's session for a while, then end it."""
        with owned_by("postgres"):
            self._world.loop.call_later(self._world.draw.uniform(0, 8), self.roll_back, session)
