"""The stores of a test listener: in memory, or a database of its own on a real PostgreSQL."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from oncecast.core.clock import Clock
from oncecast.core.errors import StartError
from oncecast.core.ports import CrashLog, ListenerStore, Outbox
from oncecast.core.transaction import Params
from oncecast.stores.postgres import Database, PostgresCrashLog, PostgresEvents, PostgresOutbox
from oncecast.stores.postgres.database import Limits
from oncecast.stores.postgres.session import READABLE
from oncecast.testing.memory import MemoryCrashLog, MemoryEvents, MemoryOutbox
from oncecast.testing.scripted import ScriptedPostgres
from oncecast.testing.servers import embedded_postgres_url

TEST_NAME = "test"
SCHEMA = "oncecast"
TOKEN_CHARS = 16
LOCK_TIMEOUT_S = 0.2
"""Only the test itself holds locks, and it waits meanwhile."""
CONNECT_TIMEOUT_S = 5
POOL_SIZE = 4


class MemoryStores:
    """Stores in memory; they end with the test."""

    def __init__(self) -> None:
        self.server = ScriptedPostgres()
        client: dict[str, Any] = {"instance": TEST_NAME, "token": TEST_NAME.ljust(TOKEN_CHARS, ".")}
        self.events: ListenerStore = MemoryEvents(self.server, **client)
        self.crash_log: CrashLog = MemoryCrashLog(self.server, **client)
        self.outbox: Outbox = MemoryOutbox(self.server, **client)

    def raise_unanswered(self) -> None:
        """Raise the Unanswered of a fetch without an answer, once, even if the handler swallowed it."""
        unanswered, self.server.unanswered = self.server.unanswered, None
        if unanswered is not None:
            raise unanswered from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""


class PostgresStores:
    """A new database on the embedded PostgreSQL (True) or on the server of a URL; dropped at the end."""

    def __init__(self, postgres: bool | str, clock: Clock, *, handler_timeout_s: float) -> None:
        self._clock = clock
        self._server_url = postgres if isinstance(postgres, str) else ""
        self._limits = Limits(
            lock_s=LOCK_TIMEOUT_S, idle_in_transaction_s=handler_timeout_s + 5.0, pool_size=POOL_SIZE
        )
        self._name = f"oncecast_test_{clock.new_token(6)}"
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server_url = self._server_url or await embedded_postgres_url()
        await self._on_server("create database {} template template0 encoding 'UTF8'")
        try:
            await self._open()
        except BaseException:
            await self._on_server("drop database {} with (force)")
            raise
        return self

    async def _open(self) -> None:
        self.url = urlunsplit(urlsplit(self._server_url)._replace(path=f"/{self._name}"))
        self._database = Database(
            self.url,
            self._clock,
            schema=SCHEMA,
            instance=TEST_NAME,
            token=TEST_NAME.ljust(TOKEN_CHARS, "."),
            limits=self._limits,
        )
        await self._database.migrate()
        self._connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True, row_factory=dict_row)
        await self._connection.execute(READABLE.encode())
        await self._database.open()
        self.events: ListenerStore = PostgresEvents(self._database)
        self.crash_log: CrashLog = PostgresCrashLog(self._database)
        self.outbox: Outbox = PostgresOutbox(self._database)

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
        await self._database.close()
        await self._on_server("drop database {} with (force)")

    async def ask(self, query: str, params: Params) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of rows that a statement affects or returns, and the rows."""
        cursor = await self._connection.execute(query, params)  # type: ignore[arg-type, unused-ignore]
        while cursor.nextset():
            pass
        return max(0, cursor.rowcount), await cursor.fetchall() if cursor.description else []

    async def _on_server(self, statement: Any) -> None:
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._server_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
            async with connection:
                await connection.execute(sql.SQL(statement).format(sql.Identifier(self._name)))
        except psycopg.errors.InsufficientPrivilege as error:
            raise StartError(
                f"the tests' PostgreSQL: {error.diag.message_primary}; each TestListener makes a database of its own,"
                " for which the role needs CREATEDB"
            ) from None
        except psycopg.Error as error:
            raise StartError(f"the tests' PostgreSQL: {str(error).strip().splitlines()[0]}") from None


Stores = MemoryStores | PostgresStores
