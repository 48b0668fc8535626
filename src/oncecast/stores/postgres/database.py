"""Connections to PostgreSQL: pools, session settings, deadlines and checks; and migrations of the schema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from oncecast.core.clock import Clock
from oncecast.core.errors import StartError
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import DATABASE_ERRORS, SessionShared, translate
from oncecast.stores.postgres.handover import HandlerConnections, Handling, check_is_of
from oncecast.stores.postgres.message import WireStatement
from oncecast.stores.postgres.pooling import check_each_has_its_own
from oncecast.stores.postgres.queries import load_queries
from oncecast.stores.postgres.schema import bring_up_to_date, read_state, script
from oncecast.stores.postgres.session import set_up_statement

# Telemetry events report failed connections once; the pool would log each try.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

Purpose = Literal["insert", "upkeep", "relay", "read"]
OWN_CONNECTIONS: dict[Purpose, int] = {"insert": 2, "upkeep": 2, "relay": 1, "read": 1}
"""Connections in addition to those for handlers, which are busy as long as a handler runs. So events without a
handler, cursors, look-ups and dead letters never wait for a handler."""

SERVER_VERSION_MIN = 140000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Time limits for PostgreSQL, in seconds, and the number of connections for handlers."""

    connect_s: float = 5.0
    lock_s: float = 2.0
    statement_s: float = 30.0
    idle_in_transaction_s: float = 65.0
    undo_s: float = 5.0
    """If a savepoint cannot be rolled back within this time, the attempt fails."""
    pool_size: int = 10
    handlers_max: int | None = None
    """The most handlers that run at the same time; `pool_size` by default."""

    @property
    def deadline_s(self) -> float:
        """The client's time limit for an answer, a little longer than the server's."""
        return self.statement_s + 2.0


class Database:
    """Two pools of connections with fixed session settings: the listener's own (OWN_CONNECTIONS), and handlers'.

    The application_name of each session ends in `token`, so that a takeover can end the sessions of a dead listener.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        schema: str,
        instance: str,
        token: str,
        limits: Limits = Limits(),
    ) -> None:
        self.schema = schema
        self.instance = instance
        self.token = token
        self.clock = clock
        self.limits = limits
        self.queries = load_queries(schema)
        self._url = url
        self._application_name = f"oncecast {instance.encode()[:30].decode(errors='ignore')} {token}"
        self._pool = self._make_pool(sum(OWN_CONNECTIONS.values()), self.set_up)
        pool_size = limits.pool_size
        self._handlers_pool = self._make_pool(pool_size, partial(self.set_up, for_handlers=True))
        self.handlers_max = min(pool_size, limits.handlers_max or pool_size)
        self._handlers = HandlerConnections(self._handlers_pool, self.handlers_max, clock)
        self._places = {purpose: asyncio.Semaphore(count) for purpose, count in OWN_CONNECTIONS.items()}

    @property
    def incarnation(self) -> str:
        """The start time of the server that the newest connection has reached; empty before the first."""
        return self._handlers.incarnation

    def _make_pool(
        self, max_size: int, set_up: Callable[[PostgresConnection], Awaitable[None]]
    ) -> AsyncConnectionPool[PostgresConnection]:
        return AsyncConnectionPool(
            conninfo=self._url,
            connection_class=PostgresConnection,
            kwargs=self.connection_options(),
            configure=set_up,
            check=self._check_incarnation,
            min_size=1,
            max_size=max_size,
            open=False,
            timeout=self.limits.connect_s,
            reconnect_timeout=self.limits.connect_s,
        )

    async def open(self) -> None:
        """Open the pools; connections are made when needed."""
        await self._pool.open(wait=False)
        await self._handlers_pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.close(timeout=2.0))
            group.create_task(self._handlers_pool.close(timeout=2.0))

    async def connect(self, *, writes: bool = False) -> PostgresConnection:
        """Return a new connection for the caller alone. Raises psycopg.Error or TimeoutError.

        If the caller is cancelled, a connection that `writes` is closed instead of cancelling its statement.
        """
        async with asyncio.timeout(self.limits.connect_s):
            connection = await PostgresConnection.connect(self._url, **self.connection_options())
        connection.writes = writes
        try:
            await self.set_up(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    def connection_options(self) -> dict[str, Any]:
        """Return the options of every connection; the kernel detects dead peers, too."""
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

    async def set_up(self, connection: PostgresConnection, *, for_handlers: bool = False) -> None:
        """Apply the settings of the module `session` to a new session, in one round trip."""
        limits = self.limits
        settings = {
            "lock_timeout": _ms(limits.lock_s),
            "statement_timeout": _ms(limits.statement_s),
            "idle_in_transaction_session_timeout": _ms(limits.idle_in_transaction_s),
            "application_name": self._application_name,
        }
        version = connection.info.server_version
        query, values = set_up_statement(settings, version, for_handlers=for_handlers)
        async with asyncio.timeout(limits.connect_s):
            row = await (await connection.execute(query.encode(), values)).fetchone()
        if row:
            connection.incarnation, connection.server_pid = row[-2], b"%d" % row[-1]
            if connection.incarnation != self.incarnation:
                self._handlers.incarnation = connection.incarnation
                self._handlers.renewed_at_s = self.clock.monotonic_s()

    async def _check_incarnation(self, connection: PostgresConnection) -> None:
        """Close a connection to a server that has been replaced, and raise: the pool makes another."""
        if connection.incarnation != self.incarnation:
            await connection.close()  # the pool would keep one that works
            raise psycopg.OperationalError("the server has been restarted or replaced")

    @asynccontextmanager
    async def connection(self, purpose: Purpose) -> AsyncIterator[PostgresConnection]:
        """Borrow a connection for the block; if the block leaves a statement or transaction open, close it.

        Each purpose has its share of the pool; a read that gets no connection in time fails. Raises errors of
        `core.errors`.
        """
        try:
            async with (
                self._place(purpose),
                self._pool.connection() as connection,
                _undisturbed(connection, writes=purpose != "read"),
            ):
                yield connection
                check_is_of(self.incarnation, connection)
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    @asynccontextmanager
    async def ask(self, purpose: Purpose, query: str, values: dict[str, Any]) -> AsyncIterator[AsyncCursor[DictRow]]:
        """Run the named query without a prepared plan, because unused filters are null."""
        async with (
            self.connection(purpose) as connection,
            asyncio.timeout(self.limits.deadline_s),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(self.queries[query], values, prepare=False)
            yield cursor

    def handling(self, opening: WireStatement | None = None) -> Handling:
        """Borrow a connection for a handler's transaction, which may have begun with `opening`."""
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
        """Replace all connections after an outage: idle ones now, the others when they are returned."""
        self._handlers.renewed_at_s = self.clock.monotonic_s()
        async with asyncio.timeout(self.limits.connect_s):
            await self._pool.drain()
            await self._handlers_pool.drain()

    async def check_sessions(self) -> None:
        """Raise SessionShared if a pooler lets connections share server processes."""
        async with await self.connect() as first:
            try:
                second = await self.connect()
            except TimeoutError:
                raise psycopg.OperationalError(
                    f"DATABASE_URL: a second connection got no answer within {self.limits.connect_s:g} s; if there is"
                    " a pooler, its pool is too small (PgBouncer: default_pool_size);"
                    " see docs/how-to/connection-poolers.md"
                ) from None
            async with second, asyncio.timeout(self.limits.connect_s):
                await check_each_has_its_own(first, second)

    async def prepare(self) -> None:
        """Check the server at DATABASE_URL, and migrate. Raises what `migrate` raises."""
        try:
            await self.check_sessions()
        except SessionShared as error:
            raise StartError(str(error)) from error
        except DATABASE_ERRORS as error:
            raise translate(error) from error
        await self.migrate()

    async def migrate(self, *, grant_to: str | None = None) -> Sequence[str]:
        """Apply missing migrations, one process at a time; return their names.

        Grants the role `grant_to` the rights of a listener; without it, the connection's role must have them. Raises
        StartError without the necessary rights.
        """
        async with self._for_schema() as (connection, deadline):
            return await bring_up_to_date(connection, self.schema, deadline, grant_to=grant_to)

    async def migration_script(self, *, grant_to: str | None = None) -> str:
        """Return the SQL that `migrate` would run, for psql; grants rights to the connection's role by default."""
        async with self._for_schema() as (connection, _):
            row = await (await connection.execute("select current_user::text")).fetchone()
            state = await read_state(connection, self.schema)
            return script(self.schema, state, grant_to=grant_to or (row[0] if row else connection.info.user))

    @asynccontextmanager
    async def _for_schema(self) -> AsyncIterator[tuple[PostgresConnection, asyncio.Timeout]]:
        try:
            async with asyncio.timeout(self.limits.deadline_s) as deadline, await self.connect() as connection:
                await self._check_server(connection)
                yield connection, deadline
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    async def _check_server(self, connection: PostgresConnection) -> None:
        if connection.info.server_version < SERVER_VERSION_MIN:
            raise StartError(
                f"PostgreSQL {connection.info.server_version // 10000} is too old: Oncecast needs 14 or newer"
            )
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise StartError(f"the database's encoding is {encoding}: Oncecast needs UTF8")


@asynccontextmanager
async def _undisturbed(connection: PostgresConnection, *, writes: bool) -> AsyncIterator[None]:
    """Close the connection if the block left a statement or a transaction open."""
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
    """Return a time from PostgreSQL (sessions use UTC) as RFC 3339."""
    return at.isoformat().replace("+00:00", "Z")
