"""Dead letters to forward to a broker: claimed for a while, and marked when the broker has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from psycopg.rows import tuple_row

from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, DeadLetter
from oncecast.core.errors import RowLocked
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.rows import dead_letter_of, identities_of


class PostgresUnforwarded:
    """The unsent dead letters of a group in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def begin(self) -> None:
        """Record the time from which on dead letters are forwarded, unless there is one."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["begin_sending"])

    async def claim(self, limit: int) -> list[DeadLetter]:
        """Claim the oldest unsent dead letters; skip rows that are locked."""
        values = {"listener": self._db.instance, "others_after_s": OTHERS_AFTER_S, "limit": limit}
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries["claim_unforwarded"], values)
            return sorted(map(dead_letter_of, await cursor.fetchall()), key=lambda dead_letter: dead_letter.died_at)

    async def mark_forwarded(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Mark dead letters as sent. Waits for a lock of a single row only, so that there can be no deadlock."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            cursor = await connection.execute(self._db.queries["mark_forwarded"], identities_of(dead_letters))
            marked = set(await cursor.fetchall())
        for dead_letter in dead_letters:
            if (dead_letter.source, dead_letter.id) not in marked:
                with contextlib.suppress(RowLocked):  # during a long replay: the dead letter is sent twice
                    await self._mark_one_sent(dead_letter)

    async def _mark_one_sent(self, dead_letter: DeadLetter) -> None:
        identity = {"source": dead_letter.source, "id": dead_letter.id}
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["mark_one_sent"], identity)

    async def release(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Give up the claims on dead letters; skip rows that are locked."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["release_unforwarded"], identities_of(dead_letters))

    async def count(self) -> int:
        """Return the number of unsent dead letters."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            row = await (await connection.execute(self._db.queries["count_unforwarded"])).fetchone()
            return row[0] if row else 0
