"""What processes died of, as far as PostgreSQL can tell: who began and did not end in order, and what it was at."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg.rows import tuple_row

from oncecast.core.event import Arrival
from oncecast.stores.postgres.database import Database


class PostgresCrashLog:
    """The CrashLog of `core.ports` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def register_process(self) -> bool:
        """See CrashLog."""
        listener = {"listener": self._db.instance}
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.transaction(),
        ):
            cursor = await connection.execute(self._db.queries["register_process"], listener)
            if await cursor.fetchone() is not None:
                return False
            await connection.execute(self._db.queries["count_deaths"], listener)
            return True

    async def unregister_process(self) -> None:
        """See CrashLog."""
        await self._write("unregister_process", {})

    async def begin_isolated(self, arrival: Arrival) -> int:
        """See CrashLog."""
        row = await self._write("accuse", {"source": arrival.source, "id": arrival.id})
        return row[0] if row else 0

    async def end_isolated(self, arrival: Arrival) -> None:
        """See CrashLog."""
        await self._write("acquit", {"source": arrival.source, "id": arrival.id})

    async def _write(self, query: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
        """One statement in this listener's name; the row that it returns."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries[query], {**values, "listener": self._db.instance})
            return await cursor.fetchone() if cursor.description else None
