"""The dead letters that a broker is to have: claimed for a while, marked once it has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from psycopg.rows import tuple_row

from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, DeadLetter
from oncecast.core.errors import RowLocked
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.rows import identities_of, letter_of


class PostgresUnsent:
    """The UnsentLetters of `core.letter_ports` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._deadline_s = database.limits.deadline_s

    async def begin(self) -> None:
        """See UnsentLetters."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["begin_sending"])

    async def claim(self, limit: int) -> list[DeadLetter]:
        """See UnsentLetters."""
        values = {"listener": self._db.instance, "others_after_s": OTHERS_AFTER_S, "limit": limit}
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries["claim_unsent"], values)
            return sorted(map(letter_of, await cursor.fetchall()), key=lambda letter: letter.died_at)

    async def mark_sent(self, letters: Sequence[DeadLetter]) -> None:
        """See UnsentLetters. Many rows are never waited for, so that nobody waits in a circle; one is."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            cursor = await connection.execute(self._db.queries["mark_sent"], identities_of(letters))
            marked = set(await cursor.fetchall())
        for letter in letters:
            if (letter.source, letter.id) not in marked:
                with contextlib.suppress(RowLocked):  # a replay that takes its time: the letter is sent twice
                    await self._mark_one_sent(letter)

    async def _mark_one_sent(self, letter: DeadLetter) -> None:
        identity = {"source": letter.source, "id": letter.id}
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["mark_one_sent"], identity)

    async def release(self, letters: Sequence[DeadLetter]) -> None:
        """See UnsentLetters."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["release_unsent"], identities_of(letters))

    async def count(self) -> int:
        """See UnsentLetters."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            row = await (await connection.execute(self._db.queries["count_unsent"])).fetchone()
            return row[0] if row else 0
