"""Where a test's events end: in memory, or in a database of their own on a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from oncecast.core.ports import Deaths, EventStore, Outbox
from oncecast.stores.memory import MemoryDeaths, MemoryEvents, MemoryOutbox
from oncecast.stores.postgres import Database, PostgresDeaths, PostgresEvents, PostgresOutbox
from oncecast.testing.scripted import ScriptedPostgres, Statement
from oncecast.testing.servers import embedded_postgres_url

INSTANCE = "test"
SCHEMA = "oncecast"
TOKEN_LETTERS = 16


class MemoryStores:
    """All of it is gone with the test."""

    def __init__(self) -> None:
        self.server = ScriptedPostgres()
        client: dict[str, Any] = {"instance": INSTANCE, "token": INSTANCE.ljust(TOKEN_LETTERS, ".")}
        self.events: EventStore = MemoryEvents(self.server, **client)
        self.deaths: Deaths = MemoryDeaths(self.server, **client)
        self.outbox: Outbox = MemoryOutbox(self.server, **client)

    @property
    def statements(self) -> list[Statement]:
        """What handlers ran."""
        return self.server.statements

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""


class PostgresStores:
    """A fresh database on the embedded PostgreSQL (True), or on the server of a URL; dropped at the end."""

    def __init__(self, postgres: bool | str) -> None:
        self._server_url = postgres if isinstance(postgres, str) else ""
        self._name = f"oncecast_test_{secrets.token_hex(6)}"
        self.statements: Sequence[Statement] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server_url = self._server_url or await embedded_postgres_url()
        await self._on_server("create database {} template template0 encoding 'UTF8'")
        parts = urlsplit(self._server_url)
        self.url = urlunsplit(parts._replace(path=f"/{self._name}"))
        self._database = Database(
            self.url, schema=SCHEMA, instance=INSTANCE, token=INSTANCE.ljust(TOKEN_LETTERS, "."), pool_size=4
        )
        await self._database.open()
        await self._database.migrate()
        self._connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True, row_factory=dict_row)
        self.events: EventStore = PostgresEvents(self._database)
        self.deaths: Deaths = PostgresDeaths(self._database)
        self.outbox: Outbox = PostgresOutbox(self._database)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
        await self._database.close()
        await self._on_server("drop database {} with (force)")

    async def ask(self, query: str, params: Any) -> tuple[int, list[dict[str, Any]]]:
        """How many rows a statement touches or returns, and those."""
        cursor = await self._connection.execute(query, params)
        return cursor.rowcount, await cursor.fetchall() if cursor.description else []

    async def _on_server(self, statement: Any) -> None:
        async with await psycopg.AsyncConnection.connect(self._server_url, autocommit=True) as connection:
            await connection.execute(sql.SQL(statement).format(sql.Identifier(self._name)))
