"""PostgreSQL in memory: rows, locks that wait, and transactions that commit entirely or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from oncecast.core.attempts import CountedFailures
from oncecast.core.crash_counts import CrashCounts
from oncecast.core.cursors import SavedCursor
from oncecast.core.errors import RowLocked
from oncecast.core.event import Arrival, Cursor
from oncecast.core.ranges import EndedRange
from oncecast.core.transaction import Params
from oncecast.event import Event

LOCK_TIMEOUT_S = 2.0
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class StoredRow:
    """The row of an event; duplicates are compared with `content`."""

    source: str
    id: str
    type: str
    content: Any
    journal: str
    epoch: str
    offset: int
    listener: str
    attempts: int
    status: str = "stored"


def stored_row(arrival: Arrival, instance: str) -> StoredRow:
    """Return the row of an event that `instance` stores."""
    return StoredRow(
        arrival.source,
        arrival.id,
        arrival.type,
        Event.from_json(arrival.raw).data,
        arrival.journal,
        arrival.epoch,
        arrival.offset,
        instance,
        arrival.attempts,
    )


@dataclass(slots=True)
class StoredDeadLetter:
    """A dead letter, in addition to its row."""

    error: str
    attempts: int
    raw: bytes
    listener: str
    number: int
    """Its number in the order of dead-lettering."""
    died_at_s: float
    logged: bool = False
    edited: bytes | None = None
    discarded: bool = False
    sent: bool = False
    send_claimed_at_s: float | None = None

    @property
    def died_at(self) -> str:
        """The time of dead-lettering: one second per dead letter, since there is no clock."""
        return (BEGINNING + timedelta(seconds=self.number)).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Tables:
    """All data that commits together, and is restored together to an older state."""

    rows: dict[str, StoredRow] = field(default_factory=dict)
    dead_letters: dict[str, StoredDeadLetter] = field(default_factory=dict)
    attempts: dict[str, CountedFailures] = field(default_factory=dict)
    conflicts: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    closed_conflicts: dict[Cursor, str | None] = field(default_factory=dict)
    """By the cursor of a conflict: the id under which it was replayed; None if it was discarded."""
    effects: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, SavedCursor] = field(default_factory=dict)
    journals: dict[str, str] = field(default_factory=dict)
    ranges: set[EndedRange] = field(default_factory=set)
    gaps: list[tuple[str, str, int, int, str]] = field(default_factory=list)
    revisions: list[frozenset[str]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    outbox: dict[int, bytes] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    quarantined: CrashCounts = field(default_factory=dict)
    sending_since_s: float | None = None

    def copy(self) -> Tables:
        """Return an independent copy; only dead letters are ever changed in place."""
        copies = {table.name: copy(getattr(self, table.name)) for table in fields(self)}
        return Tables(
            **copies
            | {"dead_letters": {identity: copy(dead_letter) for identity, dead_letter in self.dead_letters.items()}}
        )


class Session:
    """A connection with an open transaction: its writes and its row locks."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.rows: dict[str, StoredRow] = {}
        self.dead_letters: dict[str, StoredDeadLetter] = {}
        self.effects: dict[str, int] = {}
        self.closed_conflicts: dict[Cursor, str | None] = {}
        self.emitted: list[bytes] = []
        self.relayed: list[int] = []
        self.refused: dict[int, str] = {}
        self.failed = False
        """Whether a statement failed: then a commit rolls back and says so."""
        self.ended = asyncio.Event()


EFFECT = "effect"
"""The only known statement: it counts its parameter, an id."""


class MemoryPostgres:
    """The server. Its methods are statements, which run at once, except those that wait for a lock."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.incarnation = "1"
        self.lock_timeout_s = LOCK_TIMEOUT_S
        self._locks: dict[str, Session] = {}
        self._emissions = 0
        self._sessions: dict[Session, None] = {}
        """In the order of their start."""

    def begin(self, token: str) -> Session:
        """Start a session of the listener with `token`."""
        session = Session(token)
        self._sessions[session] = None
        return session

    @contextmanager
    def transaction(self, token: str) -> Iterator[Session]:
        """Run the block in a session of the listener with `token`; roll back if it raises."""
        session = self.begin(token)
        try:
            yield session
        except BaseException:
            self.roll_back(session)
            raise

    async def lock(self, session: Session, identities: Iterable[str]) -> bool:
        """Lock the rows of `identities`; return whether that waited for another session.

        Raises RowLocked if another session holds one for too long.
        """
        has_waited = False
        for identity in sorted(identities):
            # rule: an insert waits for another transaction with the same identity
            while (holder := self._locks.get(identity)) not in (None, session):
                has_waited = True
                try:
                    async with asyncio.timeout(self.lock_timeout_s):
                        await holder.ended.wait()
                except TimeoutError:
                    self.roll_back(session)
                    raise RowLocked(f"another session has {identity!r}") from None
            if session.ended.is_set():
                raise ConnectionError("terminated by another session")
            self._locks[identity] = session
        return has_waited

    def try_lock(self, session: Session, name: str) -> bool:
        """Take an advisory lock until the session ends; return False if another session has it."""
        if session.ended.is_set():
            raise ConnectionError("terminated by another session")
        return self._locks.setdefault(name, session) is session

    def check(self, query: str, params: Params) -> None:
        """Raise the error of a statement that is refused before it is sent; the transaction is unaffected."""

    def check_goes_on(self, session: Session) -> None:
        """Raise if a statement has failed in the transaction, unless its savepoint was rolled back."""
        if session.failed:
            raise RuntimeError("current transaction is aborted, commands ignored until end of transaction block")

    def answer(
        self, session: Session, query: str, params: Params, *, fetch: bool
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of affected rows and the rows of a handler's statement; `fetch` asks for rows.

        Raises SyntaxError for all but EFFECT.
        """
        if query != EFFECT or not isinstance(params, Sequence):
            raise SyntaxError(query)
        session.effects[params[0]] = session.effects.get(params[0], 0) + 1
        return 1, []

    def is_locked(self, identity: str) -> bool:
        """Whether a session has locked the row of `identity`."""
        return identity in self._locks

    def commit(self, session: Session) -> bool:
        """Commit, and return True; roll back, and return False, if a statement has failed."""
        if session.ended.is_set():
            raise ConnectionError("terminated by another session")
        if not session.failed:
            self.tables.rows |= session.rows
            self.tables.dead_letters |= session.dead_letters
            self.tables.closed_conflicts |= session.closed_conflicts
            for identity in session.rows:
                self.tables.attempts.pop(identity, None)
            # rule: the row of an event and the effects of its handler commit together
            for id_, count in session.effects.items():
                self.tables.effects[id_] = self.tables.effects.get(id_, 0) + count
            for event in session.emitted:
                self._emissions += 1
                self.tables.outbox[self._emissions] = event
            for number in session.relayed:
                self.tables.outbox.pop(number, None)
            self.tables.refused |= session.refused
        self.roll_back(session)
        return not session.failed

    def roll_back(self, session: Session) -> None:
        """Roll back and release the locks."""
        self._sessions.pop(session, None)
        self._locks = {identity: holder for identity, holder in self._locks.items() if holder is not session}
        session.ended.set()

    def abandon(self, session: Session) -> None:
        """End a session whose client has lost its connection."""
        self.roll_back(session)

    def terminate(self, token: str) -> int:
        """End the sessions of a listener; return their number."""
        terminated = [session for session in self._sessions if session.token == token]
        for session in terminated:
            self.roll_back(session)
        return len(terminated)

    def snapshot(self) -> Tables:
        """Return a copy of the committed data, for `fail_over`."""
        return self.tables.copy()

    def fail_over(self, to: Tables) -> None:
        """Continue from an older state; all connections break."""
        for session in list(self._sessions):
            self.roll_back(session)
        self.tables = to.copy()
        self.incarnation = str(int(self.incarnation) + 1)
