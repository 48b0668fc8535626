"""EventStore on a MemoryPostgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

import msgspec

from oncecast.core.attempts import FailedAttempt, attempts_in_all, count_failure, earlier_attempts
from oncecast.core.cursors import (
    Save,
    SavedCursor,
    beginning,
    decide_adoption,
    decide_gap,
    decide_save,
    offset_in,
    reach,
)
from oncecast.core.dead_letter_ports import DeadLetter
from oncecast.core.errors import NotNext, RowLocked, error_text
from oncecast.core.event import Arrival, Cursor, Turn
from oncecast.core.membership import Registration, decide_registration
from oncecast.core.outcomes import DeadLetterResult, EarlierAttempts, Outcome, compared, obstacle
from oncecast.core.ports import PrunedRows, Sessions, Work, WorkTogether
from oncecast.core.ranges import EndedRange, Range, WholeRanges
from oncecast.core.wire import Epoch
from oncecast.testing.memory.call import at_server
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import Session, StoredDeadLetter, stored_row


class MemoryEvents(Client):
    """EventStore in memory."""

    _revision = 0
    ready_ahead = 0
    whole_min_events = 2

    @at_server
    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        """Insert rows of events without handlers; return their outcomes."""
        with self._server.transaction(self._token) as session:
            inserted = await self._insert(session, arrivals)
            others = {arrival.identity: arrival for arrival in arrivals if arrival.identity not in inserted}
            self._server.commit(session)
        found = {identity: self._why_not_inserted(arrival) for identity, arrival in others.items()}
        return [found.get(arrival.identity, Outcome.STORED) for arrival in arrivals]

    def prepare_whole(self, ranges: Sequence[Range]) -> WholeRanges | None:
        """Return the ranges, unless an event cannot be decoded."""
        try:
            kinds = Counter((arrival.type, arrival.source) for each in ranges for arrival in each.decoded())
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return WholeRanges(ranges, kinds)

    @at_server
    async def insert_whole(self, whole: WholeRanges) -> bool:
        """Insert the rows of whole ranges, or none."""
        arrivals = [arrival for each in whole.ranges for arrival in each.decoded()]
        for arrival in arrivals:
            arrival.attempts = 1
        try:
            with self._server.transaction(self._token) as session:
                # rule: ranges are inserted whole or not at all
                if len(await self._insert(session, arrivals)) < len(arrivals):
                    self._server.roll_back(session)
                    return False
                self._server.commit(session)
        except RowLocked:
            return False
        return True

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        """Run `work` and insert the row of an event in one transaction."""
        return (await self._process([arrival], lambda tx, _new: work(tx), arrival.turn))[0]

    async def process_together(
        self, arrivals: Sequence[Arrival], work: WorkTogether
    ) -> list[Outcome | EarlierAttempts]:
        """Run `work` for the new events and insert their rows in one transaction."""
        return await self._process(arrivals, work, None)

    async def _process(
        self, arrivals: Sequence[Arrival], work: WorkTogether, turn: Turn | None
    ) -> list[Outcome | EarlierAttempts]:
        session = self._server.begin(self._token)
        found: dict[int, Outcome | EarlierAttempts] = {}

        async def insert() -> list[Arrival]:
            if turn is not None:
                self._take_turn(session, turn)
            inserted = await self._insert(session, arrivals)
            new = [arrival for arrival in arrivals if arrival.identity in inserted]
            if not new:
                self._server.roll_back(session)
            found.update((a.offset, self._why_not_inserted(a)) for a in arrivals if a.identity not in inserted)
            return new

        try:
            new = await self._do(insert)
        except RowLocked:
            self._server.roll_back(session)
            raise
        except BaseException:  # also of a cancelled caller: its connection is closed
            if not session.ended.is_set():
                self._server.abandon(session)
            raise
        if new:
            # rule: handlers receive only the events that their transaction inserted
            # rule: events have ended only if their transaction committed
            await self._finish(session, lambda tx: work(tx, new))
        return [found.get(arrival.offset, Outcome.STORED) for arrival in arrivals]

    def _take_turn(self, session: Session, turn: Turn) -> None:
        rows = self._tables.rows
        identities = {one.identity for one in turn.rows_needed()}
        found = {each: rows["\0".join(each)] for each in identities if "\0".join(each) in rows}
        is_same = turn.track.incarnation in (None, self._server.incarnation)
        # rule: an ordered event runs only after the row of the event before it
        has_come = is_same and turn.has_come({each: (row.epoch, row.offset) for each, row in found.items()})
        # rule: one event of a key runs at a time
        is_ours = self._server.try_lock(session, f"key {turn.key}")
        if not (is_ours and has_come):
            self._server.roll_back(session)
            raise NotNext(f"another event of {turn.key} is next")

    @at_server
    def compare(self, arrivals: Sequence[Arrival]) -> list[Outcome | None]:
        """Return the outcome of each repeated arrival; None without a row."""
        return [self._compare(arrival) for arrival in arrivals]

    @at_server
    async def count_failure(self, failure: FailedAttempt) -> int:
        """Count a failed attempt once; return the number of failed attempts."""
        identity = failure.arrival.identity
        session = self._server.begin(self._token)
        await self._server.lock(session, [identity])
        self._server.roll_back(session)
        if identity in self._tables.rows:
            return failure.arrival.attempts
        counted = count_failure(self._tables.attempts.get(identity), failure, self._now_s())
        self._tables.attempts[identity] = counted
        return counted.attempts

    @at_server
    def prune_attempts(self, *, overdue_s: float) -> int:
        """Delete overdue attempt counts; the commit that ends an event deletes its own."""
        before_s, attempts = self._now_s() - overdue_s, self._tables.attempts
        overdue = [identity for identity, failed in attempts.items() if failed.due_at_s < before_s]
        for identity in overdue:
            del attempts[identity]
        return len(overdue)

    @at_server
    async def dead_letter(self, arrival: Arrival, cause: BaseException) -> DeadLetterResult:
        """Insert the row of a dead letter, with its error."""
        with self._server.transaction(self._token) as session:
            # rule: an ordered event becomes a dead letter only in its turn
            if arrival.turn is not None:
                self._take_turn(session, arrival.turn)
            counted = self._tables.attempts.get(arrival.identity)
            attempts = attempts_in_all(arrival, 0 if counted is None else counted.attempts)
            if not await self._insert(session, [arrival], heeds_earlier=False):
                self._server.roll_back(session)
                return DeadLetterResult(obstacle(self._compare(arrival), arrival.id), attempts)
            row = session.rows[arrival.identity]
            row.status, row.attempts = "dead", attempts
            error = error_text(cause)
            number = len(self._tables.dead_letters) + 1
            dead_letter = StoredDeadLetter(error, attempts, bytes(arrival.raw), self._instance, number, self._now_s())
            session.dead_letters[arrival.identity] = dead_letter
            self._server.commit(session)
        return DeadLetterResult(Outcome.STORED, attempts)

    async def _insert(self, session: Session, arrivals: Sequence[Arrival], *, heeds_earlier: bool = True) -> set[str]:
        """Insert rows; return the new identities, and none if a newer application is recorded.

        With `heeds_earlier`, leave out events with failed attempts that their listener does not know of.
        """
        if self._revision and self._revision != len(self._tables.revisions):
            return set()
        has_waited = await self._server.lock(session, (arrival.identity for arrival in arrivals))
        for arrival in arrivals:
            fails_elsewhere = has_waited and arrival.attempts > 1
            stays_out = heeds_earlier and (fails_elsewhere or self._failed_before(arrival) is not None)
            # rule: an identity is inserted once
            if arrival.identity not in self._tables.rows and not stays_out:
                session.rows.setdefault(arrival.identity, stored_row(arrival, self._instance))
        return set(session.rows)

    def _failed_before(self, arrival: Arrival) -> EarlierAttempts | None:
        return earlier_attempts(self._tables.attempts.get(arrival.identity), arrival.attempts, self._now_s())

    def _why_not_inserted(self, arrival: Arrival) -> Outcome | EarlierAttempts:
        return obstacle(self._compare(arrival) or self._failed_before(arrival), arrival.id)

    def _compare(self, arrival: Arrival) -> Outcome | None:
        """Compare an arrival with the row of its identity, and keep a conflict; None without a row."""
        row, given = self._tables.rows.get(arrival.identity), stored_row(arrival, self._instance)
        if row is None:
            return None
        same_place = (row.epoch, row.offset) == (given.epoch, given.offset)
        same_content = (row.type, row.content) == (given.type, given.content)
        outcome = compared(same_place=same_place, same_content=same_content)
        if outcome is Outcome.CONFLICT:
            self._tables.conflicts[arrival.identity, arrival.epoch, arrival.offset] = bytes(arrival.raw)
        return outcome

    @at_server
    def unlogged(self, limit: int) -> list[DeadLetter]:
        """Return up to `limit` dead letters that are not logged."""
        return [
            self._dead_letter(identity)
            for identity, dead_letter in self._tables.dead_letters.items()
            if not dead_letter.logged and dead_letter.listener == self._instance
        ][:limit]

    @at_server
    def mark_logged(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Mark dead letters as logged."""
        for dead_letter in dead_letters:
            if (kept := self._tables.dead_letters.get(f"{dead_letter.source}\0{dead_letter.id}")) is not None:
                kept.logged = True

    async def register_handlers(self, selectors: frozenset[str], *, force: bool) -> frozenset[str]:
        """Return the handlers of the group's application that are missing here; record these if none is."""

        def register() -> Registration:
            revisions = self._tables.revisions
            newest = revisions[-1] if revisions else frozenset()
            decision = decide_registration(len(revisions), newest, selectors, force=force)
            if decision.is_new:
                revisions.append(selectors)
            return decision

        decision = await self._do(register)
        if not decision.missing:
            self._revision = decision.revision
        return decision.missing

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        """Return the hash of the journal's key, recorded at its first use."""
        return await self._do(lambda: self._tables.journals.setdefault(journal, key_hash))

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        """Return the group's cursor in a journal."""
        return await self._do(lambda: self._tables.cursors.get(journal))

    @at_server
    def record_ranges(self, ended: Sequence[EndedRange], incarnation: str) -> bool:
        """Record ranges whose events all have rows, unless the server has failed over since."""
        # rule: ranges are recorded by the server that has their events
        is_same = incarnation == self._server.incarnation
        if is_same:
            self._tables.ranges.update(ended)
        return is_same

    @at_server
    def save_cursor(self, journal: str, epochs: Sequence[Epoch], *, position: Cursor, proved: int) -> Save:
        """Advance the cursor over the recorded ranges; report whether any is missing."""
        saved = self._tables.cursors.setdefault(journal, beginning(epochs))
        start = offset_in(saved, epochs) or 0
        recorded = [each for each in self._tables.ranges if each.journal == journal and each.last > start]
        reached = reach(start, epochs, sorted(recorded, key=attrgetter("first")))
        decision = decide_save(saved, epochs, reached, position=position, proved=proved)
        if decision.write is not None:
            self._write_cursor(journal, decision.write)
            last = decision.write.cursor.offset
            self._tables.ranges -= {e for e in self._tables.ranges if e.journal == journal and e.last <= last}
        return decision.answer

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """Save a first cursor, unless there is one."""
        await self._do(lambda: self._tables.cursors.setdefault(journal, SavedCursor(at, list(epochs))))

    @at_server
    def adopt_cursor(self, journal: str, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]) -> None:
        """Replace the cursor of a divergent history."""
        saved = self._tables.cursors.get(journal)
        self._write_cursor(journal, decide_adoption(saved, epochs, instead_of=instead_of))

    @at_server
    def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """Move the cursor behind a gap, and record the gap."""
        decision = decide_gap(self._tables.cursors.get(journal), epochs, first=first, after=after)
        if decision.gap is not None:
            self._tables.gaps.append((journal, *decision.gap, reason))
        self._write_cursor(journal, decision.write)
        return decision.cursor

    def _write_cursor(self, journal: str, to: SavedCursor | None) -> None:
        if to is not None:
            self._tables.cursors[journal] = to

    async def prune(self, *, older_than_s: float, limit: int, after: datetime | None = None) -> PrunedRows:
        """Rows have no age here."""
        return PrunedRows(0, None)

    async def count_prunable(self, *, older_than_s: float) -> int:
        """Rows have no age here."""
        return 0

    async def probe(self, *, writes: bool = True) -> None:
        """Check that the server answers."""
        await self._do(lambda: None)

    async def renew(self) -> None:
        """Do nothing: there is no pool."""

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        """End the sessions of a listener; none counts as in use, since sessions have no times here."""
        ended = await self._do(lambda: self._server.terminate(token))
        return Sessions.SILENT if ended else Sessions.NONE

    async def close(self) -> None:
        """End the sessions of this client."""
        self._server.terminate(self._token)
