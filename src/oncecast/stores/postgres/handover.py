"""Connections for handlers, and how one goes from a transaction to the next without standing idle.

Under load somebody always waits for a connection. So the COMMIT of one transaction takes along how the next begins,
in one message; each is a transaction of its own, and no error of one is another's. See decision 023.
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
from oncecast.core.errors import AttemptFailed
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import DATABASE_ERRORS, translate
from oncecast.stores.postgres.message import WireStatement, own_row, raise_failure, send

PASSED_ON_MAX_S = 60.0
"""So long after a connection was taken from its pool it is passed on; then the pool may see to its age."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for a place: is given a connection on which its opening has run, or None: a place only."""

    opening: WireStatement | None
    given: asyncio.Future[Held | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True, eq=False)
class Held:
    """A connection for one transaction. `opened` is what its opening returned, None where it has yet to begin."""

    places: HandlerConnections
    connection: PostgresConnection
    taken_at_s: float
    opened: bool | None = None
    is_gone: bool = False
    """Whether somebody else has it now."""

    async def commit(self, deadline_s: float) -> None:
        """COMMIT, and begin for whoever waits: what befalls that is no error of ours. Raises what `commit` does."""
        next_one = self.places.next_with_opening() if self._may_be_passed_on() else None
        if next_one is None or next_one.opening is None:
            await commit(self.connection, deadline_s)
            return
        try:
            opened = await self._commit_and_open(next_one.opening, deadline_s)
            if opened is not None and not next_one.given.done():
                next_one.given.set_result(Held(self.places, self.connection, self.taken_at_s, opened))
                self.is_gone = True
        finally:
            if not self.is_gone:
                next_one.opening = None  # its own trouble, if it was that, it shall meet by itself
                self.places.put_first(next_one)

    def _may_be_passed_on(self) -> bool:
        """Not an old one, and not with what reaches the next: the message is read before COMMIT ends a SET LOCAL."""
        return (
            self.taken_at_s >= max(self.places.renewed_at_s, self.places.monotonic_s() - PASSED_ON_MAX_S)
            and self.connection.pgconn.transaction_status == TransactionStatus.INTRANS
            and self.connection.is_clean
        )

    async def _commit_and_open(self, opening: WireStatement, deadline_s: float) -> bool | None:
        """What the next one's opening returned; None if that failed."""
        try:
            message = b"commit; begin; " + opening.written_for(self.connection)
        except psycopg.Error:  # nothing was sent: what the next one begins with cannot be
            await commit(self.connection, deadline_s)
            return None
        committed, *begun = await send(self.connection, message, deadline_s, commits=True)
        # An error may come before COMMIT, too, and leave our transaction open: only its tag says that it is done.
        # rule: a commit that begins the next transaction is proven by its own tag
        believe_commit(committed)
        try:
            return own_row(self.connection, begun) == (b"t",)
        except psycopg.Error:
            return None


class HandlerConnections:
    """So many connections of `pool` at a time, to those who ask for one in the order in which they ask."""

    def __init__(self, pool: AsyncConnectionPool[PostgresConnection], count: int, clock: Clock) -> None:
        self.monotonic_s = clock.monotonic_s
        self._pool = pool
        self._free = count
        self._waiting: deque[_Waiter] = deque()
        self.renewed_at_s = 0.0
        """Since when connections are to be trusted, by `monotonic_s`."""

    def next_with_opening(self) -> _Waiter | None:
        """Whoever is next, if it is one for whom a transaction can be begun; it waits no longer."""
        while self._waiting and self._waiting[0].given.done():
            self._waiting.popleft()
        if self._waiting and self._waiting[0].opening is not None:
            return self._waiting.popleft()
        return None

    def put_first(self, waiter: _Waiter) -> None:
        """It is the next again."""
        self._waiting.appendleft(waiter)

    async def take(self, opening: WireStatement | None) -> Held:
        """A connection for one transaction, which may have begun with `opening` already."""
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
        """It was cancelled: before it was given anything, or in the moment after."""
        if waiter.given.cancelled():
            return
        given = waiter.given.result()
        if given is None:
            self._free_a_place()
        else:
            await self.give_back(given)

    async def give_back(self, held: Held) -> None:
        """It is no longer needed. Nothing that is open on it, or under way, gets to the next."""
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
    """`async with`: a connection for one transaction, which may have begun with `opening`. Raises our own errors."""

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


async def commit(connection: PostgresConnection, deadline_s: float) -> None:
    """COMMIT, and believe it only if PostgreSQL says so.

    Where no answer comes the outcome is unknown; whoever tries again inserts first, and so looks.
    """
    # A server that stops may say so, behind its answer.
    committed, *_ = await send(connection, b"commit", deadline_s, commits=True)
    believe_commit(committed)


def believe_commit(committed: PGresult) -> None:
    """Raise AttemptFailed unless PostgreSQL says that it did what COMMIT asks for, or psycopg.Error."""
    raise_failure(committed)
    # rule: only the COMMIT tag proves a commit
    if committed.command_status != b"COMMIT":
        raise AttemptFailed(
            "the transaction was rolled back, though the handler returned: it swallowed an SQL error;"
            " use 'async with tx.savepoint()' for errors that it means to survive"
        )
