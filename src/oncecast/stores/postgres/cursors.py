"""A group's cursors in its journals, and the recorded ranges that they move over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg.rows import tuple_row

from oncecast.core.cursors import (
    Save,
    SavedCursor,
    beginning,
    decide_adoption,
    decide_gap,
    decide_save,
    decide_unlocked_save,
    offset_in,
    reach,
)
from oncecast.core.event import Cursor
from oncecast.core.ranges import EndedRange
from oncecast.core.wire import Epoch
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.rows import RawJson

RANGES_READ = 1_000
PAGES_MAX = 100


class PostgresCursors:
    """The part of the EventStore that keeps cursors."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        """Insert the hash of the journal's key if the journal is new; return the saved one."""
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
        """Read the group's cursor in this journal."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
        ):
            return await self._read_cursor(connection, "load_cursor", journal)

    @property
    def incarnation(self) -> str:
        """The start time of the server; it differs after a restart and on another server."""
        return self._db.incarnation

    async def record_ranges(self, ended: Sequence[EndedRange], incarnation: str) -> bool:
        """Insert ranges whose events all have committed rows, all of them at this incarnation of the server."""
        journals, epochs, firsts, lasts = zip(*sorted(ended), strict=True)
        values = {"journals": list(journals), "epochs": list(epochs), "firsts": list(firsts), "lasts": list(lasts)}
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            # rule: ranges are recorded by the server that has their events
            if connection.incarnation != incarnation:
                return False
            await connection.execute(self._db.queries["record_ranges"], values)
        return True

    async def save_cursor(self, journal: str, epochs: Sequence[Epoch], *, position: Cursor, proved: int) -> Save:
        """Advance the cursor over the recorded ranges."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            saved = await self._read_cursor(connection, "lock_cursor", journal)
            if saved is None:  # there is no cursor yet, or another listener has locked it
                saved = beginning(epochs)
                if not await self._insert_cursor(connection, journal, saved):
                    return decide_unlocked_save(await self._read_cursor(connection, "load_cursor", journal), epochs)
            reached, is_all = await self._reach(connection, journal, epochs, offset_in(saved, epochs) or 0)
            decision = decide_save(saved, epochs, reached, position=position, proved=proved if is_all else 0)
            if decision.write is not None:
                await self._write_cursor(connection, journal, decision.write)
                passed = {"journal": journal, "last": decision.write.cursor.offset}
                await connection.execute(self._db.queries["delete_ranges"], passed)
            return decision.answer

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """Insert the cursor unless there is one."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await self._insert_cursor(connection, journal, SavedCursor(at, list(epochs)))

    async def adopt_cursor(self, journal: str, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]) -> None:
        """Lock the cursor, and convert it from the divergent epochs `instead_of` to `epochs`."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            saved = await self._read_cursor(connection, "lock_cursor_patiently", journal)
            await self._write_cursor(connection, journal, decide_adoption(saved, epochs, instead_of=instead_of))

    async def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """Lock the cursor, insert the gap before `first`, and move the cursor over it."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            saved = await self._read_cursor(connection, "lock_cursor_patiently", journal)
            decision = decide_gap(saved, epochs, first=first, after=after)
            if decision.gap is not None:
                gap = {"journal": journal, **decision.gap._asdict(), "reason": reason}
                # rule: a gap and the cursor that passes it commit together
                await connection.execute(self._db.queries["note_gap"], gap)
            await self._write_cursor(connection, journal, decision.write)
            return decision.cursor

    async def _insert_cursor(self, connection: PostgresConnection, journal: str, cursor: SavedCursor) -> bool:
        """Insert the group's first cursor in this journal; return False if it has one."""
        inserted = await connection.execute(self._db.queries["begin_cursor"], _values(journal, cursor))
        return await inserted.fetchone() is not None

    async def _write_cursor(self, connection: PostgresConnection, journal: str, to: SavedCursor | None) -> None:
        if to is not None:
            await connection.execute(self._db.queries["move_cursor"], _values(journal, to))

    async def _read_cursor(self, connection: PostgresConnection, query: str, journal: str) -> SavedCursor | None:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries[query], {"journal": journal})
            row = await cursor.fetchone()
        if row is None:
            return None
        epoch, offset, epochs = row
        return SavedCursor(Cursor(epoch, offset), msgspec.convert(epochs, list[Epoch]))

    async def _reach(
        self, connection: PostgresConnection, journal: str, epochs: Sequence[Epoch], start: int
    ) -> tuple[int, bool]:
        """Return how far the recorded ranges reach without a gap from offset `start` on, and whether all were read.

        After PAGES_MAX the next save continues: one stuck event may have let millions of ranges accumulate.
        """
        reached = start
        for _ in range(PAGES_MAX):
            values = {"journal": journal, "after": reached, "limit": RANGES_READ}
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(self._db.queries["recorded_ranges"], values)
                recorded = [EndedRange(journal, *row) for row in await cursor.fetchall()]
            reached = reach(reached, epochs, recorded)
            if len(recorded) < RANGES_READ or reached < recorded[-1].last:
                return reached, True
        return reached, False


def _values(journal: str, saved: SavedCursor) -> dict[str, Any]:
    return {"journal": journal, **saved.cursor._asdict(), "epochs": RawJson(msgspec.json.encode(saved.epochs))}
