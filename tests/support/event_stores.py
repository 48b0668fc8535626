"""PostgreSQL and its in-memory substitute, behind one interface for the conformance suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.conflicts import Conflicts
from oncecast.core.dead_letter_ports import DeadLetters
from oncecast.core.ports import ListenerStore, Outbox
from oncecast.core.transaction import Transaction
from oncecast.stores.postgres import Database, PostgresConflicts, PostgresDeadLetters, PostgresEvents, PostgresOutbox
from oncecast.stores.postgres.database import Limits
from oncecast.testing.memory import MemoryConflicts, MemoryDeadLetters, MemoryEvents, MemoryOutbox, MemoryPostgres
from oncecast.testing.memory.postgres import EFFECT


class Postgres:
    """A real PostgreSQL."""

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._schema = url, schema
        self._databases: list[Database] = []
        self.outboxes: dict[str, Outbox] = {}
        self.operated: dict[str, Conflicts] = {}

    async def of(self, token: str, *, idle_in_transaction_s: float = 65.0) -> tuple[ListenerStore, DeadLetters]:
        limits = Limits(lock_s=0.3, statement_s=5.0, idle_in_transaction_s=idle_in_transaction_s)
        database = Database(self._url, SYSTEM_CLOCK, schema=self._schema, instance=token, token=token, limits=limits)
        await database.open()
        await database.migrate()
        self._databases.append(database)
        self.outboxes[token] = PostgresOutbox(database)
        self.operated[token] = PostgresConflicts(database)
        await self._ask(f'create table if not exists "{self._schema}".effects (id text)')
        return PostgresEvents(database), PostgresDeadLetters(database)

    async def effect(self, tx: Transaction, id: str) -> None:
        await tx.execute(f'insert into "{self._schema}".effects values (%s)', (id,))

    async def statuses(self) -> dict[str, str]:
        return dict(await self._ask(f'select id, status from "{self._schema}".events'))

    async def attempts(self) -> dict[str, int]:
        return dict(await self._ask(f'select id, attempts from "{self._schema}".events'))

    async def failures(self) -> dict[str, int]:
        return dict(await self._ask(f'select id, attempts from "{self._schema}".attempts'))

    async def effects(self) -> dict[str, int]:
        return dict(await self._ask(f'select id, count(*) from "{self._schema}".effects group by 1'))

    async def refused(self) -> list[str]:
        return [
            why
            for (why,) in await self._ask(f'select refusal from "{self._schema}".outbox where refusal is not null')
        ]

    async def offer_refused_again(self) -> None:
        await self._ask(f'update "{self._schema}".outbox set refused_at = null where refused_at is not null')

    async def gaps(self) -> list[tuple[str, str, int, int, str]]:
        return await self._ask(f'select journal, epoch, first, last, reason from "{self._schema}".gaps')

    async def conflicts(self) -> list[tuple[str, int]]:
        return await self._ask(f'select id, "offset" from "{self._schema}".conflicts')

    async def dead_letters(self) -> list[str]:
        return [id_ for (id_,) in await self._ask(f'select id from "{self._schema}".dead_letters')]

    async def lose(self, id: str) -> None:
        await self._ask(f"delete from \"{self._schema}\".events where id = '{id}'")

    async def close(self) -> None:
        for database in self._databases:
            await database.close()

    async def _ask(self, query: str) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            cursor = await connection.execute(query)
            return await cursor.fetchall() if cursor.description else []


class Memory:
    """The in-memory substitute."""

    def __init__(self) -> None:
        self._server = MemoryPostgres()
        self._server.lock_timeout_s = 0.3
        self.outboxes: dict[str, Outbox] = {}
        self.operated: dict[str, Conflicts] = {}

    async def of(self, token: str, *, idle_in_transaction_s: float = 65.0) -> tuple[ListenerStore, DeadLetters]:
        self.outboxes[token] = MemoryOutbox(self._server, instance=token, token=token)
        self.operated[token] = MemoryConflicts(self._server, instance=token, token=token)
        return (
            MemoryEvents(self._server, instance=token, token=token),
            MemoryDeadLetters(self._server, instance=token, token=token),
        )

    async def effect(self, tx: Transaction, id: str) -> None:
        await tx.execute(EFFECT, (id,))

    async def statuses(self) -> dict[str, str]:
        return {row.id: row.status for row in self._server.tables.rows.values()}

    async def attempts(self) -> dict[str, int]:
        return {row.id: row.attempts for row in self._server.tables.rows.values()}

    async def failures(self) -> dict[str, int]:
        tables = self._server.tables
        return {identity.partition("\0")[2]: failed.attempts for identity, failed in tables.attempts.items()}

    async def effects(self) -> dict[str, int]:
        return self._server.tables.effects

    async def refused(self) -> list[str]:
        return list(self._server.tables.refused.values())

    async def offer_refused_again(self) -> None:
        self._server.tables.refused.clear()

    async def gaps(self) -> list[tuple[str, str, int, int, str]]:
        return self._server.tables.gaps

    async def conflicts(self) -> list[tuple[str, int]]:
        return [(identity.partition("\0")[2], offset) for identity, _, offset in self._server.tables.conflicts]

    async def dead_letters(self) -> list[str]:
        return [identity.partition("\0")[2] for identity in self._server.tables.dead_letters]

    async def lose(self, id: str) -> None:
        for identity, row in list(self._server.tables.rows.items()):
            if row.id == id:
                del self._server.tables.rows[identity]

    async def close(self) -> None:
        """Do nothing: nothing is open."""


Server = Postgres | Memory


@pytest.fixture(params=["postgres", "memory"])
async def server(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[Server]:
    made: Server = Memory()
    if request.param == "postgres":
        made = Postgres(request.getfixturevalue("postgres_url"), schema)
    yield made
    await made.close()
