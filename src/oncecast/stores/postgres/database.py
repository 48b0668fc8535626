"""Connections to PostgreSQL: how they are made, bounded and checked, and how the schema comes to be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from oncecast.core.errors import StartError
from oncecast.stores.postgres.connection import Connection
from oncecast.stores.postgres.errors import DATABASE_ERRORS, translate
from oncecast.stores.postgres.handover import HandlerConnections, Handling
from oncecast.stores.postgres.message import Statement
from oncecast.stores.postgres.queries import in_schema, load_queries

# The pool logs every failed try; what they mean for us is reported as facts, once.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

Purpose = Literal["insert", "upkeep", "relay", "read"]
BESIDES: dict[Purpose, int] = {"insert": 2, "upkeep": 2, "relay": 1, "read": 1}
"""Connections besides those for handlers, which may keep theirs as long as they run: so that events without a
handler, cursors, look-ups and dead letters always find one."""

SERVER_VERSION_MIN = 140000
MIGRATION_DEADLINE_S = 900.0
"""A migration may have to rewrite a large table; to be cut short would only have it begin again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long PostgreSQL may take for what, in seconds."""

    connect_s: float = 5.0
    lock_s: float = 2.0
    statement_s: float = 30.0
    idle_in_transaction_s: float = 65.0

    @property
    def deadline_s(self) -> float:
        """When we stop waiting for an answer ourselves: the server had its chance to time out."""
        return self.statement_s + 2.0


class Database:
    """A pool of connections whose sessions are set up as the promise needs them.

    `pool_size` is for handlers, of which `handlers_max` may run at a time, and BESIDES comes on top. `token` ends the
    application_name of each, so that a rescuer can end the sessions of a dead holder.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str,
        instance: str,
        token: str,
        pool_size: int = 10,
        handlers_max: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.schema = schema
        self.instance = instance
        self.limits = limits or Limits()
        self.queries = load_queries(schema)
        self._url = url
        self._application_name = f"oncecast {instance.encode()[:30].decode(errors='ignore')} {token}"
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo=url,
            connection_class=Connection,
            kwargs=self.connection_options(),
            configure=self.set_up,
            min_size=1,
            max_size=pool_size + sum(BESIDES.values()),
            open=False,
            timeout=self.limits.connect_s,
            reconnect_timeout=self.limits.connect_s,
        )
        self.handlers_max = min(pool_size, handlers_max or pool_size)
        self._handlers = HandlerConnections(self._pool, self.handlers_max)
        self._places = {purpose: asyncio.Semaphore(count) for purpose, count in BESIDES.items()}

    async def open(self) -> None:
        """Open the pool; connections are made as they are needed."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(timeout=2.0)

    async def connect(self) -> Connection:
        """A fresh connection of the caller's own; raises psycopg.Error or TimeoutError."""
        async with asyncio.timeout(self.limits.connect_s):
            connection = await Connection.connect(self._url, **self.connection_options())
        try:
            await self.set_up(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    def connection_options(self) -> dict[str, Any]:
        """What every connection is made with: dead peers are found by the kernel too."""
        seconds = int(self.limits.connect_s) or 1
        return {
            "autocommit": True,
            "application_name": self._application_name,
            "connect_timeout": seconds,
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": 3,
            "tcp_user_timeout": int(self.limits.deadline_s * 1000),
        }

    async def set_up(self, connection: Connection) -> None:
        """The session's settings: commits are durable whatever the server's default, and nothing waits for ever.

        An earlier session's setting (behind a pooler) does not survive either.
        """
        limits = self.limits
        async with asyncio.timeout(limits.connect_s):
            await connection.execute(
                "select set_config('client_encoding', 'UTF8', false), set_config('synchronous_commit', 'on', false),"
                " set_config('lock_timeout', %s, false),"
                " set_config('statement_timeout', %s, false),"
                " set_config('idle_in_transaction_session_timeout', %s, false),"
                " set_config('TimeZone', 'UTC', false), set_config('application_name', %s, false)",
                (
                    _ms(limits.lock_s),
                    _ms(limits.statement_s),
                    _ms(limits.idle_in_transaction_s),
                    self._application_name,
                ),
            )

    @asynccontextmanager
    async def connection(self, purpose: Purpose) -> AsyncIterator[Connection]:
        """A connection for one piece of work; closed rather than reused when that ends in any disorder.

        Each purpose has its share of the pool; a reader that finds none in time is refused. Raises our own errors.
        """
        try:
            async with (
                self._place(purpose),
                self._pool.connection() as connection,
                _undisturbed(connection, writes=purpose != "read"),
            ):
                yield connection
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    def handling(self, opening: Statement | None = None) -> Handling:
        """A connection for a handler's transaction, which may have begun with `opening`; see HandlerConnections."""
        return Handling(self._handlers, opening)

    @asynccontextmanager
    async def _place(self, purpose: Purpose) -> AsyncIterator[None]:
        places = self._places[purpose]
        async with asyncio.timeout(self.limits.connect_s if purpose == "read" else None):
            await places.acquire()
        try:
            yield
        finally:
            places.release()

    async def renew(self) -> None:
        """After a time of trouble: close what is pooled without asking it how it is, and the rest when it is back."""
        self._handlers.renewed_at_s = time.monotonic()
        async with asyncio.timeout(self.limits.connect_s):
            await self._pool.drain()

    async def migrate(self) -> None:
        """Bring the schema up to date, one process at a time; raises StartError where that cannot be."""
        try:
            async with asyncio.timeout(self.limits.deadline_s) as deadline:
                connection = await self.connect()
                async with connection:
                    await self._check_server(connection)
                    try:
                        await _migrate(connection, self.schema, deadline)
                    except psycopg.errors.InsufficientPrivilege as error:
                        raise StartError(_what_it_takes(connection, error, self.schema)) from error
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    async def _check_server(self, connection: Connection) -> None:
        if connection.info.server_version < SERVER_VERSION_MIN:
            raise StartError(
                f"PostgreSQL {connection.info.server_version // 10000} is too old: Oncecast needs 14 or newer"
            )
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise StartError(f"the database's encoding is {encoding}: Oncecast needs one with UTF8")


def _what_it_takes(connection: Connection, error: psycopg.Error, schema: str) -> str:
    info = connection.info
    return (
        f"PostgreSQL: {error.diag.message_primary}: it takes 'grant create on database {info.dbname} to {info.user}'"
        f" by the database's owner; and the schema {schema}, where there is one already, has to be {info.user}'s own"
    )


async def _migrate(connection: Connection, schema: str, deadline: asyncio.Timeout) -> None:
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "set local lock_timeout = 0"
        )  # another's migration takes what it takes; we have a deadline
        await cursor.execute("select pg_advisory_xact_lock(hashtext('oncecast'), hashtext(%s))", (schema,))
        name = sql.Identifier(schema)
        await cursor.execute("select to_regclass(%s)", (f'"{schema}".migrations',))
        if await cursor.fetchone() == (None,):
            await cursor.execute(sql.SQL("create schema if not exists {}").format(name))
            await cursor.execute(
                sql.SQL(
                    "create table {}.migrations (number integer primary key, name text not null,"
                    " applied_at timestamptz not null default clock_timestamp())"
                ).format(name)
            )
        await cursor.execute(sql.SQL("select number from {}.migrations").format(name))
        applied = {number for (number,) in await cursor.fetchall()}
        for file in sorted(resources.files(__package__).joinpath("sql/migrations").iterdir(), key=lambda f: f.name):
            number = int(file.name.partition("_")[0])
            if number in applied:
                continue
            deadline.reschedule(asyncio.get_running_loop().time() + MIGRATION_DEADLINE_S)
            await cursor.execute(f"set local statement_timeout = '{_ms(MIGRATION_DEADLINE_S)}'")
            await cursor.execute(in_schema(file.read_text("utf-8"), schema))
            await cursor.execute(
                sql.SQL("insert into {}.migrations (number, name) values (%s, %s)").format(name),
                (number, file.name),
            )


@asynccontextmanager
async def _undisturbed(connection: Connection, *, writes: bool) -> AsyncIterator[None]:
    """Close the connection if its work was cut short: a statement or a transaction may still be open on it."""
    connection.writes = writes
    try:
        yield
    except (Exception, asyncio.CancelledError):
        if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            await connection.close()
        raise
    finally:
        connection.writes = False


def _ms(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


def rfc3339(at: datetime) -> str:
    """A time as PostgreSQL gave it (sessions run in UTC) as text."""
    return at.isoformat().replace("+00:00", "Z")
