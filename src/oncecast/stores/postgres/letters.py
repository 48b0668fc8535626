"""Dead letters as an operator sees them: list, look at, mend, replay. The row of `events` is what is dead."""

from __future__ import annotations

import asyncio
import dataclasses
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row, tuple_row

from oncecast.core.event import Arrival, Event
from oncecast.core.ports import ReplayWork
from oncecast.stores.postgres.database import Connection, Database, Purpose, rfc3339
from oncecast.stores.postgres.pages import behind, mark_of
from oncecast.stores.postgres.rows import rows_of, storable
from oncecast.stores.postgres.work import finish


class PostgresLetters:
    """The DeadLetters of `core.ports` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def newest(
        self,
        *,
        limit: int,
        after: str | None = None,
        type: str | None = None,
        source: str | None = None,
        id: str | None = None,
        listener: str | None = None,
        error: str | None = None,
    ) -> list[dict[str, Any]]:
        """See DeadLetters."""
        filters = {"type": type, "source": source, "id": id, "listener": listener, "error": error}
        async with self._ask("read", "list_dead_letters", {"limit": limit, **filters, **behind(after)}) as cursor:
            return [
                {**row, "died_at": rfc3339(row["died_at"]), "mark": mark_of(row["died_at"], row["source"], row["id"])}
                for row in await cursor.fetchall()
            ]

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """See DeadLetters."""
        async with self._ask("read", "get_dead_letter", {"source": source, "id": id}) as cursor:
            row = await cursor.fetchone()
        if row is None:
            return None
        mended = row["mended_data"]
        return {
            **{name: value for name, value in row.items() if name != "raw"},
            "died_at": rfc3339(row["died_at"]),
            "event": msgspec.Raw(row["raw"]),
            "mended_data": None if mended is None else msgspec.Raw(mended.encode()),
        }

    async def mend(self, source: str, id: str, data: bytes) -> bool:
        """See DeadLetters."""
        values = {"source": source, "id": id, "data": data.decode()}
        async with self._ask("upkeep", "mend_dead_letter", values) as cursor:
            return cursor.rowcount == 1

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """See DeadLetters."""
        async with self._db.connection("work") as connection:
            async with asyncio.timeout(self._deadline_s):
                await connection.execute("begin")
                arrival = await self._lock(connection, source, id)
                if arrival is None:
                    await connection.execute("rollback")
                    return False
                await connection.execute(self._db.queries["store_dead"], rows_of([arrival], self._db.instance))
                await connection.execute(self._db.queries["note_replayed"], {"source": source, "id": id})
            failure = await finish(self._db, connection, partial(work, arrival))
        if failure is not None:
            raise failure
        return True

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """See DeadLetters."""
        values = {
            "source": source,
            "id": id,
            "error": storable(f"{type(cause).__name__}: {cause}"),
            "trace": storable("".join(traceback.format_exception(cause))),
        }
        async with self._ask("upkeep", "note_failed_replay", values):
            return

    async def _lock(self, connection: Connection, source: str, id: str) -> Arrival | None:
        """The dead letter as an arrival once more, with its row locked; None if it is not, or no longer, dead."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["lock_dead"], {"source": source, "id": id})
            row = await cursor.fetchone()
        if row is None:
            return None
        raw, is_mended, mended, type_, journal, epoch, offset, attempts, at_us = row
        if is_mended:
            raw = dataclasses.replace(Event.from_json(raw), raw_data=mended.encode(), data_bytes=None).to_json()
        return Arrival(
            track=None,
            offset=offset,
            at_us=at_us,
            id=id,
            source=source,
            type=type_,
            raw=msgspec.Raw(raw),
            cost_bytes=0,
            attempts=attempts + 1,
            epoch=epoch,
            journal=journal,
        )

    @asynccontextmanager
    async def _ask(self, purpose: Purpose, query: str, values: dict[str, Any]) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with (
            self._db.connection(purpose) as connection,
            asyncio.timeout(self._deadline_s),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(self._db.queries[query], values)
            yield cursor
