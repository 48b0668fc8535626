"""The outbox: emitted events that no producer has accepted yet."""

from __future__ import annotations

import asyncio

from psycopg.rows import tuple_row

from oncecast.core.errors import EmissionRefused
from oncecast.core.ports import Publish
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.message import commit
from oncecast.stores.postgres.rows import storable

MARGIN_S = 5.0
"""PostgreSQL ends a relay transaction that is idle for this much longer than `publish` may take."""


class PostgresOutbox:
    """The outbox in PostgreSQL; an advisory lock lets one listener of the group relay at a time."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def relay(self, publish: Publish, *, limit: int, max_bytes: int, within_s: float) -> int:
        """Publish the oldest events and delete them; the lock is held until the producer has answered."""
        async with self._db.connection("relay") as connection:
            async with asyncio.timeout(self._deadline_s):
                await connection.execute("begin")
                due = await self._due(connection, limit, max_bytes, within_s)
            refused: EmissionRefused | None = None
            if due:
                try:
                    # rule: an emitted event leaves the outbox only when acknowledged
                    await publish([event for _, event in due])
                except EmissionRefused as error:
                    refused = error
            async with asyncio.timeout(self._deadline_s):
                if refused is not None:
                    values = {"number": due[refused.index][0], "reason": storable(str(refused))}
                    await connection.execute(self._db.queries["refuse_emission"], values)
                elif due:
                    numbers = {"numbers": [number for number, _ in due]}
                    await connection.execute(self._db.queries["forget_emissions"], numbers)
                await commit(connection, self._deadline_s)
        if refused is not None:
            raise refused
        return len(due)

    async def _due(
        self, connection: PostgresConnection, limit: int, max_bytes: int, within_s: float
    ) -> list[tuple[int, bytes]]:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            idle_ms = int((within_s + MARGIN_S) * 1000)
            await cursor.execute(self._db.queries["lock_outbox"], {"idle_ms": idle_ms})
            locked = await cursor.fetchone()
            # rule: one listener forwards the outbox at a time
            if locked is None or not locked[0]:
                return []
            await cursor.execute(self._db.queries["due_emissions"], {"limit": limit, "max_bytes": max_bytes})
            return await cursor.fetchall()
