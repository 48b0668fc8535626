"""Connections for handlers, handed over from one transaction to the next without idle time.

Under load an attempt always waits for a connection. So one message has the COMMIT of a transaction and the beginning
of the next. They are separate transactions: an error of one does not affect the other. See decision 023.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg_pool import AsyncConnectionPool

from oncecast.core.clock import Clock
from oncecast.core.errors import AttemptFailed, Unavailable
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import DATABASE_ERRORS, translate
from oncecast.stores.postgres.message import WireStatement, own_row, raise_failure, send

PASSED_ON_MAX_S = 60.0
"""How long after leaving its pool a connection is handed over; then it goes back, so that the pool can replace it."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A task that waits; it gets a connection on which its opening has run, or None: then it takes one itself."""

    opening: WireStatement | None
    given: asyncio.Future[Held | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True, eq=False)
class Held:
    """A connection for one transaction. `opened` is the result of its opening; None if that has not run."""

    connections: HandlerConnections
    connection: PostgresConnection
    taken_at_s: float
    opened: bool | None = None
    is_gone: bool = False
    """Whether it was handed over."""

    async def commit(self, deadline_s: float) -> None:
        """COMMIT, and begin the next waiting transaction, whose errors are not raised. Raises as `commit` does."""
        next_one = self.connections.next_with_opening() if self._may_be_passed_on() else None
        if next_one is None or next_one.opening is None:
            await commit(self.connection, deadline_s)
            return
        try:
            opened = await self._commit_and_open(next_one.opening, deadline_s)
            if opened is not None and not next_one.given.done():
                next_one.given.set_result(Held(self.connections, self.connection, self.taken_at_s, opened))
                self.is_gone = True
        finally:
            if not self.is_gone:
                next_one.opening = None  # if its opening failed, it will run it itself and get the error
                self.connections.put_first(next_one)

    def _may_be_passed_on(self) -> bool:
        """Return whether it is recent and clean: the server parses the message before COMMIT ends a SET LOCAL."""
        return (
            self.taken_at_s >= max(self.connections.renewed_at_s, self.connections.monotonic_s() - PASSED_ON_MAX_S)
            and self.connection.pgconn.transaction_status == TransactionStatus.INTRANS
            and self.connection.is_clean
        )

    async def _commit_and_open(self, opening: WireStatement, deadline_s: float) -> bool | None:
        """Commit and run `opening`; return its result, or None if it failed."""
        try:
            message = b"commit; begin; " + opening.written_for(self.connection)
        except psycopg.Error:  # the opening cannot be encoded; nothing was sent
            await commit(self.connection, deadline_s)
            return None
        committed, *begun = await send(self.connection, message, deadline_s, commits=True)
        # An error before COMMIT leaves the transaction open: only its command tag proves that it is done.
        # rule: a commit that begins the next transaction is proven by its own tag
        believe_commit(committed)
        try:
            return own_row(self.connection, begun) == (b"t",)
        except psycopg.Error:
            return None


class HandlerConnections:
    """Hands out up to `count` connections of `pool` at a time, in the order of requests."""

    def __init__(self, pool: AsyncConnectionPool[PostgresConnection], count: int, clock: Clock) -> None:
        self.monotonic_s = clock.monotonic_s
        self._pool = pool
        self._free = count
        self._waiting: deque[_Waiter] = deque()
        self.renewed_at_s = 0.0
        """Connections from before this time, by `monotonic_s`, are not handed over."""
        self.incarnation = ""
        """The newest incarnation of the server that any connection has met."""

    def next_with_opening(self) -> _Waiter | None:
        """Remove and return the next waiter if its transaction can be begun for it; else None."""
        while self._waiting and self._waiting[0].given.done():
            self._waiting.popleft()
        if self._waiting and self._waiting[0].opening is not None:
            return self._waiting.popleft()
        return None

    def put_first(self, waiter: _Waiter) -> None:
        """Put a waiter back to the front of the queue."""
        self._waiting.appendleft(waiter)

    async def take(self, opening: WireStatement | None) -> Held:
        """Return a connection for one transaction, which may have begun with `opening`."""
        if self._free:
            self._free -= 1
        else:
            waiter = _Waiter(opening)
            self._waiting.append(waiter)
            try:
                given = await waiter.given
            except asyncio.CancelledError:
                await self._decline(waiter)
                raise
            if given is not None:
                return given
        try:
            return Held(self, await self._pool.getconn(), self.monotonic_s())
        except BaseException:
            self._free_a_place()
            raise

    async def _decline(self, waiter: _Waiter) -> None:
        """Give back what a cancelled waiter may have got at the last moment."""
        if waiter.given.cancelled():
            return
        given = waiter.given.result()
        if given is None:
            self._free_a_place()
        else:
            await self.give_back(given)

    async def give_back(self, held: Held) -> None:
        """Return a connection to the pool; close it if a transaction or statement is open on it."""
        held.connection.writes = False
        try:
            idle = held.connection.pgconn.transaction_status == TransactionStatus.IDLE
            if not (idle and held.connection.is_clean):
                await held.connection.close()
            await self._pool.putconn(held.connection)
        finally:
            self._free_a_place()

    def _free_a_place(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.given.done():
                waiter.given.set_result(None)
                return
        self._free += 1


class Handling:
    """An async context manager for a connection for one transaction. Raises errors of `core.errors`."""

    def __init__(self, connections: HandlerConnections, opening: WireStatement | None) -> None:
        self._connections = connections
        self._opening = opening

    async def __aenter__(self) -> Held:
        try:
            self._held = await self._connections.take(self._opening)
        except DATABASE_ERRORS as error:
            raise translate(error) from error
        return self._held

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if not self._held.is_gone:
                await self._connections.give_back(self._held)
        except DATABASE_ERRORS as failed:
            raise translate(failed) from failed
        if isinstance(error, DATABASE_ERRORS):
            raise translate(error) from error
        if error is None:
            check_is_of(self._connections.incarnation, self._held.connection)


def check_is_of(incarnation: str, connection: PostgresConnection) -> None:
    """Raise Unavailable if the connection is to an earlier incarnation: the newer one may lack what it committed."""
    if connection.incarnation != incarnation:
        raise Unavailable("PostgreSQL: it was restarted or replaced meanwhile, so the outcome is unknown")


async def commit(connection: PostgresConnection, deadline_s: float) -> None:
    """COMMIT, and raise unless PostgreSQL confirms it.

    Without an answer the outcome is unknown; the next attempt inserts the row first, which shows it.
    """
    # A server that is stopping may add a message to its answer.
    committed, *_ = await send(connection, b"commit", deadline_s, commits=True)
    believe_commit(committed)


def believe_commit(committed: PGresult) -> None:
    """Raise AttemptFailed unless PostgreSQL confirms the COMMIT, or psycopg.Error if it failed."""
    raise_failure(committed)
    # rule: only the COMMIT tag proves a commit
    if committed.command_status != b"COMMIT":
        raise AttemptFailed(
            "the transaction was rolled back although the handler returned, because it swallowed an SQL error;"
            " use 'async with tx.savepoint()' around statements that may fail"
        )
