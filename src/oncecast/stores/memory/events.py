"""The EventStore, Deaths and DeadLetters of `core.ports` on a MemoryPostgres."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from oncecast.core.errors import AttemptFailed, RowLocked, TransactionClosed, Unavailable
from oncecast.core.event import Arrival, Cursor, Event
from oncecast.core.ports import DeadLetter, Outcome, ReplayWork, Save, SavedCursor, Transaction
from oncecast.core.wire import Epoch, epoch_of, is_outdated, resume_after
from oncecast.stores.memory.postgres import Letter, MemoryPostgres, Row, Session, Tables

Act = Callable[[], Awaitable[Any]]
Call = Callable[[Act], Awaitable[Any]]
DIED_AT = "2000-01-01T00:00:00Z"
EFFECT = "effect"
"""The one statement that a handler can run: it counts its parameter, an id."""


async def at_once(act: Act) -> Any:
    """A call that nothing befalls."""
    return await act()


class _Client:
    """Statements go through `call`, which may lose or delay them, or their answers."""

    def __init__(self, server: MemoryPostgres, *, instance: str, token: str, call: Call = at_once) -> None:
        self._server = server
        self._instance = instance
        self._token = token
        self._call = call

    @property
    def _tables(self) -> Tables:
        return self._server.tables

    async def _do(self, act: Act) -> Any:
        try:
            return await self._call(act)
        except (TimeoutError, OSError) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": ")) from error

    async def _at_once(self, act: Callable[[], Any]) -> Any:
        async def acting() -> Any:
            return act()

        return await self._do(acting)

    async def _finish(self, session: Session, work: Callable[[Transaction], Awaitable[None]]) -> None:
        """Run `work`, then commit; raises what it raises, after a roll-back."""
        facade = MemoryTransaction(session, self._at_once)
        try:
            await work(facade)
            facade.session = None
            committed = await self._at_once(lambda: self._server.commit(session))
        finally:
            facade.session = None
            if not session.ended.is_set():
                self._server.abandon(session)
        if not committed:
            raise AttemptFailed(
                "the transaction was rolled back, though the handler returned: it swallowed an SQL error"
            )


class MemoryTransaction:
    """The Transaction of an attempt: it knows the statement EFFECT, and that every other is an error."""

    def __init__(self, session: Session, do: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self.session: Session | None = session
        self._do = do

    async def execute(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> int:
        """See Transaction."""
        session = self.session
        if session is None:
            raise TransactionClosed("the transaction ended with its attempt")

        def execute() -> int:
            if session.ended.is_set():
                raise ConnectionError("terminated by another session")
            if query != EFFECT or not isinstance(params, Sequence):
                session.failed = True
                raise SyntaxError(query)
            session.effects[params[0]] = session.effects.get(params[0], 0) + 1
            return 1

        touched: int = await self._do(execute)
        return touched

    async def fetch_one(self, query: str, params: Any = None) -> dict[str, Any] | None:
        """There is nothing to fetch."""
        await self.execute(query, params)
        return None

    async def fetch_all(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """There is nothing to fetch."""
        await self.execute(query, params)
        return []

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See Transaction."""
        session = self.session
        effects = dict(session.effects) if session is not None else {}
        try:
            yield
        except Exception:
            if session is not None:
                session.effects, session.failed = effects, False
            raise


class MemoryEvents(_Client):
    """See EventStore."""

    _revision = 0

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """See EventStore."""

        async def insert() -> list[Outcome]:
            session = self._server.begin(self._token)
            inserted = await self._insert(session, arrivals)
            outcomes = [
                Outcome.STORED if arrival.identity in inserted else self._compare(arrival) for arrival in arrivals
            ]
            self._server.commit(session)
            return outcomes

        found: list[Outcome] = await self._do(insert)
        return found

    async def process(self, arrival: Arrival, work: Callable[[Transaction], Awaitable[None]]) -> Outcome:
        """See EventStore."""
        session = await self._at_once(lambda: self._server.begin(self._token))

        async def insert() -> Outcome | None:
            if await self._insert(session, [arrival]):
                return None
            self._server.roll_back(session)
            return self._compare(arrival)

        try:
            outcome: Outcome | None = await self._do(insert)
        except Unavailable:
            self._server.abandon(session)
            raise
        if outcome is None:
            await self._finish(session, work)
        return outcome or Outcome.STORED

    async def bury(self, arrival: Arrival, cause: BaseException) -> Outcome:
        """See EventStore."""

        async def bury() -> Outcome:
            session = self._server.begin(self._token)
            if not await self._insert(session, [arrival]):
                self._server.roll_back(session)
                return self._compare(arrival)
            session.rows[arrival.identity].status = "dead"
            error = f"{type(cause).__name__}: {cause}"
            letter = Letter(error, arrival.attempts, bytes(arrival.raw), self._instance)
            session.letters[arrival.identity] = letter
            self._server.commit(session)
            return Outcome.STORED

        outcome: Outcome = await self._do(bury)
        return outcome

    async def _insert(self, session: Session, arrivals: Sequence[Arrival]) -> set[str]:
        """The identities whose rows are new; nothing in the name of an application that is not the newest."""
        if self._revision and self._revision != len(self._tables.revisions):
            self._server.roll_back(session)
            raise RowLocked("the group has another application by now")
        await self._server.lock(session, (arrival.identity for arrival in arrivals))
        for arrival in arrivals:
            if arrival.identity not in self._tables.rows:
                session.rows.setdefault(arrival.identity, _row(arrival, self._instance))
        return set(session.rows)

    def _compare(self, arrival: Arrival) -> Outcome:
        row, given = self._tables.rows[arrival.identity], _row(arrival, self._instance)
        if (row.epoch, row.offset) == (given.epoch, given.offset):
            return Outcome.PRESENT
        if (row.type, row.content) == (given.type, given.content):
            return Outcome.DUPLICATE
        self._tables.conflicts[arrival.identity, arrival.epoch, arrival.offset] = bytes(arrival.raw)
        return Outcome.CONFLICT

    async def unfiled(self, limit: int) -> list[DeadLetter]:
        """See EventStore."""

        def unfiled() -> list[DeadLetter]:
            return [
                DeadLetter(
                    source=row.source,
                    id=row.id,
                    error=letter.error,
                    attempts=letter.attempts,
                    raw=letter.raw,
                    died_at=DIED_AT,
                )
                for identity, letter in self._tables.letters.items()
                if not letter.filed and letter.listener == self._instance
                for row in [self._tables.rows[identity]]
            ][:limit]

        found: list[DeadLetter] = await self._at_once(unfiled)
        return found

    async def mark_filed(self, letters: Sequence[DeadLetter]) -> None:
        """See EventStore."""

        def mark() -> None:
            for letter in letters:
                if (kept := self._tables.letters.get(f"{letter.source}\0{letter.id}")) is not None:
                    kept.filed = True

        await self._at_once(mark)

    async def agree(self, selectors: frozenset[str], *, adopt: bool) -> frozenset[str]:
        """See EventStore."""

        def agree() -> tuple[int, frozenset[str]]:
            revisions = self._tables.revisions
            newest = revisions[-1] if revisions else frozenset()
            missing = newest - selectors
            if not revisions or (selectors != newest and (adopt or not missing)):
                revisions.append(selectors)
                missing = frozenset()
            return len(revisions), missing

        revision, missing = await self._at_once(agree)
        if not missing:
            self._revision = revision
        found: frozenset[str] = missing
        return found

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        """See EventStore."""
        saved: SavedCursor | None = await self._at_once(lambda: self._tables.cursors.get(journal))
        return saved

    async def save_cursor(
        self, journal: str, epochs: Sequence[Epoch], ended: Sequence[Arrival], *, position: Cursor
    ) -> Save:
        """See EventStore."""

        def save() -> Save:
            saved = self._tables.cursors.setdefault(journal, _saved(epochs, 0))
            if is_outdated(epochs, saved.epochs):
                return Save(None, missing=True)
            start = resume_after(saved.cursor, saved.epochs, epochs)
            if start < position.offset:
                return Save(_cursor(epochs, start), missing=True)
            candidates = [arrival for arrival in ended if arrival.offset > start]
            shown = 0
            while shown < len(candidates) and candidates[shown].identity in self._tables.rows:
                shown += 1
            if not shown:
                return Save(_cursor(epochs, start), missing=bool(candidates))
            last = candidates[shown - 1]
            reached = Cursor(last.epoch, last.offset)
            self._tables.cursors[journal] = SavedCursor(reached, list(epochs))
            return Save(reached, missing=shown < len(candidates))

        result: Save = await self._at_once(save)
        return result

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """See EventStore."""
        await self._at_once(lambda: self._tables.cursors.setdefault(journal, SavedCursor(at, list(epochs))))

    async def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """See EventStore."""

        def pass_gap() -> Cursor | None:
            saved = self._tables.cursors.get(journal)
            if saved is None:
                return None
            start = resume_after(saved.cursor, saved.epochs, epochs)
            if start + 1 >= first or start < after:
                return _cursor(epochs, start)
            self._tables.gaps.append((journal, epoch_of(epochs, start + 1), start + 1, first - 1, reason))
            self._tables.cursors[journal] = _saved(epochs, first - 1)
            return _cursor(epochs, first - 1)

        passed: Cursor | None = await self._at_once(pass_gap)
        return passed

    async def prune(self, *, older_than_s: float, limit: int) -> int:
        """Rows have no age here."""
        return 0

    async def count_prunable(self, *, older_than_s: float) -> int:
        """Rows have no age here."""
        return 0

    async def probe(self) -> None:
        """See EventStore."""
        await self._at_once(lambda: None)

    async def renew(self) -> None:
        """There is no pool."""

    async def end_sessions(self, token: str) -> int:
        """See EventStore."""
        ended: int = await self._at_once(lambda: self._server.terminate(token))
        return ended

    async def close(self) -> None:
        """Our sessions end."""
        self._server.terminate(self._token)


class MemoryDeaths(_Client):
    """See Deaths."""

    async def begin_running(self) -> bool:
        """See Deaths."""

        def begin() -> bool:
            if self._instance not in self._tables.running:
                self._tables.running.add(self._instance)
                return False
            for (identity, listener), (attempting, deaths) in list(self._tables.suspects.items()):
                if listener == self._instance and attempting:
                    self._tables.suspects[identity, listener] = (False, deaths + 1)
            return True

        in_doubt: bool = await self._at_once(begin)
        return in_doubt

    async def end_running(self) -> None:
        """See Deaths."""
        await self._at_once(lambda: self._tables.running.discard(self._instance))

    async def accuse(self, arrival: Arrival) -> int:
        """See Deaths."""

        def accuse() -> int:
            deaths = {
                who: n for (identity, who), (_, n) in self._tables.suspects.items() if identity == arrival.identity
            }
            self._tables.suspects[arrival.identity, self._instance] = (True, deaths.get(self._instance, 0))
            return sum(deaths.values())

        died: int = await self._at_once(accuse)
        return died

    async def acquit(self, arrival: Arrival) -> None:
        """See Deaths."""
        await self._at_once(lambda: self._tables.suspects.pop((arrival.identity, self._instance), None))


class MemoryLetters(_Client):
    """See DeadLetters; lists are short here, and in no order."""

    async def newest(self, *, limit: int, **filters: str | None) -> list[dict[str, Any]]:
        """See DeadLetters."""

        def newest() -> list[dict[str, Any]]:
            dead = (row for identity, row in self._tables.rows.items() if row.status == "dead")
            return [{"source": row.source, "id": row.id, "type": row.type} for row in dead][:limit]

        found: list[dict[str, Any]] = await self._at_once(newest)
        return found

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """See DeadLetters."""

        def get() -> dict[str, Any] | None:
            letter = self._tables.letters.get(f"{source}\0{id}")
            return None if letter is None else {"source": source, "id": id, "error": letter.error}

        found: dict[str, Any] | None = await self._at_once(get)
        return found

    async def mend(self, source: str, id: str, data: bytes) -> bool:
        """See DeadLetters."""

        def mend() -> bool:
            row, letter = self._tables.rows.get(f"{source}\0{id}"), self._tables.letters.get(f"{source}\0{id}")
            if row is None or letter is None or row.status != "dead":
                return False
            letter.mended = data
            return True

        mended: bool = await self._at_once(mend)
        return mended

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """See DeadLetters."""
        identity = f"{source}\0{id}"
        session = await self._at_once(lambda: self._server.begin(self._token))

        async def lock() -> Arrival | None:
            await self._server.lock(session, [identity])
            row = self._tables.rows.get(identity)
            if row is None or row.status != "dead":
                self._server.roll_back(session)
                return None
            letter = self._tables.letters[identity]
            raw = letter.raw
            if letter.mended is not None:
                mended = dataclasses.replace(Event.from_json(raw), raw_data=letter.mended, data_bytes=None)
                raw = mended.to_json()
            session.rows[identity] = dataclasses.replace(row, status="stored", listener=self._instance)
            return Arrival(
                track=None,
                offset=row.offset,
                at_us=0,
                id=id,
                source=source,
                type=row.type,
                raw=msgspec.Raw(raw),
                cost_bytes=0,
                attempts=row.attempts + 1,
                epoch=row.epoch,
                journal=row.journal,
            )

        try:
            arrival: Arrival | None = await self._do(lock)
        except Unavailable:
            self._server.abandon(session)
            raise
        if arrival is None:
            return False

        async def run(tx: Transaction) -> None:
            await work(arrival, tx)

        await self._finish(session, run)
        return True

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """See DeadLetters."""

        def note() -> None:
            if (letter := self._tables.letters.get(f"{source}\0{id}")) is not None:
                letter.error = f"{type(cause).__name__}: {cause}"
                letter.attempts += 1

        await self._at_once(note)


def _row(arrival: Arrival, instance: str) -> Row:
    event = Event.from_json(arrival.raw)
    return Row(
        arrival.source,
        arrival.id,
        arrival.type,
        event.data,
        arrival.journal,
        arrival.epoch,
        arrival.offset,
        instance,
        arrival.attempts,
    )


def _cursor(epochs: Sequence[Epoch], offset: int) -> Cursor:
    return Cursor(epoch_of(epochs, max(offset, 1)), offset)


def _saved(epochs: Sequence[Epoch], offset: int) -> SavedCursor:
    return SavedCursor(_cursor(epochs, offset), list(epochs))
