"""Record in PostgreSQL which processes run, and which event each runs alone, to count crashes."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg.rows import tuple_row

from oncecast.core.event import Arrival
from oncecast.stores.postgres.database import Database


class PostgresCrashLog:
    """The CrashLog of one listener in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def register_process(self) -> bool:
        """Record the start of this process; return whether the previous one crashed, and charge its event if so."""
        listener = {"listener": self._db.instance}
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.transaction(),
        ):
            cursor = await connection.execute(self._db.queries["register_process"], listener)
            if await cursor.fetchone() is not None:
                return False
            await connection.execute(self._db.queries["count_crash_of_listener"], listener)
            return True

    async def unregister_process(self) -> None:
        """Record that this process ended normally."""
        await self._write("unregister_process", {})

    async def count_crash(self, token: str) -> None:
        """Charge the crash of the process with this token to the event that it ran alone."""
        await self._write("count_crash_of_owner", {"owner": token})

    async def begin_isolated(self, arrival: Arrival) -> int:
        """Record that this process runs the event alone; return how many processes died of it so far."""
        values = {"source": arrival.source, "id": arrival.id, "owner": self._db.token}
        row = await self._write("begin_isolated", values)
        return row[0] if row else 0

    async def end_isolated(self, arrival: Arrival) -> None:
        """Record that this process has survived the event."""
        await self._write("end_isolated", {"source": arrival.source, "id": arrival.id})

    async def _write(self, query: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
        """Run a query with this listener's name, and return its row."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries[query], {**values, "listener": self._db.instance})
            return await cursor.fetchone() if cursor.description else None
