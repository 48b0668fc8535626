"""A group's cursors in its journals: each stands only where every event before it has its row."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg.rows import tuple_row

from oncecast.core.event import Arrival, Cursor
from oncecast.core.ports import Save, SavedCursor
from oncecast.core.wire import Epoch, epoch_of, has_heard_of, resume_after
from oncecast.stores.postgres.connection import Connection
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.rows import Json

_LOOK_UP_MAX = 5_000


class PostgresCursors:
    """The part of the EventStore of `core.ports` that is about cursors, on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        """See EventStore."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries["meet_journal"], {"journal": journal, "key_hash": key_hash})
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - it is inserted, or was there
            known: str = row[0]
            return known

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        """See EventStore."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
        ):
            return await self._read_cursor(connection, "load_cursor", journal)

    async def save_cursor(
        self,
        journal: str,
        epochs: Sequence[Epoch],
        ended: Sequence[Arrival],
        *,
        position: Cursor,
    ) -> Save:
        """See EventStore. Looks every identity up: neither Redis nor an older database can make us skip."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            start = await self._locked_start(connection, journal, epochs)
            if start is None:
                return await self._saved_by_another(connection, journal, epochs)
            if start < position.offset:  # PostgreSQL went back to an older state: what lies between is not at hand
                return Save(_cursor(epochs, start), missing=True)
            candidates = [arrival for arrival in ended if arrival.offset > start]
            shown = await self._prefix_shown(connection, candidates)
            if shown == 0:
                return Save(_cursor(epochs, start), missing=bool(candidates))
            last = candidates[shown - 1]
            reached = Cursor(last.epoch, last.offset)
            await self._move_cursor(connection, journal, epochs, reached)
            return Save(reached, missing=shown < len(candidates))

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """See EventStore."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await self._begin_cursor(connection, journal, epochs, at)

    async def adopt_cursor(self, journal: str, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]) -> None:
        """See EventStore."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            saved = await self._read_cursor(connection, "lock_cursor_patiently", journal)
            if saved is not None and saved.epochs == list(instead_of):
                start = resume_after(saved.cursor, saved.epochs, epochs)
                await self._move_cursor(connection, journal, epochs, _cursor(epochs, start))

    async def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """See EventStore."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            saved = await self._read_cursor(connection, "lock_cursor_patiently", journal)
            if saved is None or not has_heard_of(epochs, saved.epochs):
                return None
            start = resume_after(saved.cursor, saved.epochs, epochs)
            if start + 1 >= first or start < after:
                return _cursor(epochs, start)
            gap = {"journal": journal, "epoch": epoch_of(epochs, start + 1), "first": start + 1, "last": first - 1}
            # rule: a gap and the cursor that passes it commit together
            await connection.execute(self._db.queries["note_gap"], {**gap, "reason": reason})
            passed = _cursor(epochs, first - 1)
            await self._move_cursor(connection, journal, epochs, passed)
            return passed

    async def _move_cursor(self, connection: Connection, journal: str, epochs: Sequence[Epoch], to: Cursor) -> None:
        await connection.execute(self._db.queries["move_cursor"], _place(journal, epochs, to))

    async def _begin_cursor(self, connection: Connection, journal: str, epochs: Sequence[Epoch], at: Cursor) -> bool:
        """Whether it was not there."""
        cursor = await connection.execute(self._db.queries["begin_cursor"], _place(journal, epochs, at))
        return await cursor.fetchone() is not None

    async def _locked_start(self, connection: Connection, journal: str, epochs: Sequence[Epoch]) -> int | None:
        """The saved offset in terms of `epochs`, with the row locked; None if another has it, or knows more."""
        saved = await self._read_cursor(connection, "lock_cursor", journal)
        if saved is not None:
            # rule: only a listener that knows the epochs of the saved cursor moves it
            if not has_heard_of(epochs, saved.epochs):
                return None
            return resume_after(saved.cursor, saved.epochs, epochs)
        return 0 if await self._begin_cursor(connection, journal, epochs, Cursor(epochs[0].epoch, 0)) else None

    async def _saved_by_another(self, connection: Connection, journal: str, epochs: Sequence[Epoch]) -> Save:
        saved = await self._read_cursor(connection, "load_cursor", journal)
        if saved is None or not has_heard_of(epochs, saved.epochs):
            return Save(None, missing=saved is not None)
        return Save(_cursor(epochs, resume_after(saved.cursor, saved.epochs, epochs)), missing=False)

    async def _read_cursor(self, connection: Connection, query: str, journal: str) -> SavedCursor | None:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries[query], {"journal": journal})
            row = await cursor.fetchone()
        if row is None:
            return None
        epoch, offset, epochs = row
        return SavedCursor(Cursor(epoch, offset), msgspec.convert(epochs, list[Epoch]))

    async def _prefix_shown(self, connection: Connection, candidates: Sequence[Arrival]) -> int:
        """How many of `candidates`, from the first on, have rows."""
        for begin in range(0, len(candidates), _LOOK_UP_MAX):
            chunk = candidates[begin : begin + _LOOK_UP_MAX]
            by_source: dict[str, set[str]] = defaultdict(set)
            for arrival in chunk:
                by_source[arrival.source].add(arrival.id)
            missing = {
                (source, id_)
                for source, ids in by_source.items()
                for id_ in await self._missing(connection, source, ids)
            }
            if missing:
                return begin + next(i for i, a in enumerate(chunk) if (a.source, a.id) in missing)
        return len(candidates)

    async def _missing(self, connection: Connection, source: str, ids: set[str]) -> Iterable[str]:
        parameters = {"source": source, "ids": Json(msgspec.json.encode(list(ids)))}
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["count_present"], parameters)
            # rule: a cursor passes only committed rows
            if await cursor.fetchone() == (len(ids),):
                return ()
            await cursor.execute(self._db.queries["list_present"], parameters)
            return ids - {id_ for (id_,) in await cursor.fetchall()}


def _place(journal: str, epochs: Sequence[Epoch], at: Cursor) -> dict[str, Any]:
    encoded = Json(msgspec.json.encode(epochs))
    return {"journal": journal, "epoch": at.epoch, "offset": at.offset, "epochs": encoded}


def _cursor(epochs: Sequence[Epoch], offset: int) -> Cursor:
    return Cursor(epoch_of(epochs, max(offset, 1)), offset)
