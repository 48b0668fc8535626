"""Run users' code between `begin` and `commit`, and commit or roll back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import psycopg

from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.errors import AttemptFailed, root_error
from oncecast.core.event import Arrival
from oncecast.core.ports import Work
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.errors import handler_error, is_stale_plan
from oncecast.stores.postgres.handover import Held
from oncecast.stores.postgres.message import BEGIN, begin_with
from oncecast.stores.postgres.transaction import HandlerTransaction

_IN_TRANSACTION = (psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR)


async def finish(database: Database, held: Held, work: Work) -> Exception | None:
    """Run `work` in the open transaction, insert emitted events, and commit; or roll back and return the error."""
    connection = held.connection
    limits, deadline_s = database.limits, database.limits.deadline_s
    facade = HandlerTransaction(
        connection,
        database.queries["take_key"],
        database.clock,
        statement_timeout_s=limits.statement_s,
        undo_s=limits.undo_s,
    )
    failure = await _outcome(work, facade)
    emitted = facade.emitted
    left_over = await _end(facade, connection, deadline_s)
    failure = failure or left_over or (AttemptFailed(facade.inconsistency) if facade.inconsistency else None)
    broken = connection.broken
    interrupted = facade.is_interrupted_by(connection.pgconn.transaction_status)
    if failure is None and interrupted:
        failure = AttemptFailed("the handler swallowed the cancellation of a statement")
    if failure is None:
        # An aborted transaction accepts no statement; the command tag of COMMIT will show that it is aborted.
        # rule: emitted events commit together with their cause
        if emitted and connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            async with asyncio.timeout(deadline_s):
                await connection.execute(database.queries["emit"], {"events": emitted})
        await held.commit(deadline_s)
        return None
    await _roll_back(connection, failure, deadline_s)
    translated = handler_error(failure, facade.raised, connection_broken=broken, interrupted=interrupted)
    if translated is not failure:
        translated.__cause__ = failure
        if is_stale_plan(failure) and held.taken_at_s >= held.connections.renewed_at_s:
            await database.renew()  # other connections have prepared it, too
    return translated


async def replay(
    database: Database, work: ReplayWork, store: Callable[[PostgresConnection], Awaitable[Arrival | None]]
) -> bool:
    """Run `store`, and then `work` with the event that it stored, in one transaction; False if it stored none."""
    async with database.handling() as held:
        async with asyncio.timeout(database.limits.deadline_s):
            await begin_with(held.connection, BEGIN)
            arrival = await store(held.connection)
            if arrival is None:
                await held.connection.execute("rollback")
                return False
        failure = await finish(database, held, partial(work, arrival))
    if failure is not None:
        raise failure
    return True


async def _outcome(work: Work, facade: HandlerTransaction) -> Exception | None:
    """Run users' code; return the error that decides the attempt, or None."""
    try:
        await work(facade)
    except Exception as error:  # any error of users' code is the outcome of the attempt; `classify` judges it
        return root_error(error, facade.raised)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            facade.close()  # the caller closes the connection
            raise
        return AttemptFailed("the handler raised CancelledError, from a cancelled task of its own")
    return None


async def _end(facade: HandlerTransaction, connection: PostgresConnection, deadline_s: float) -> Exception | None:
    """Wait for running statements; return the error if the transaction must not commit."""
    try:
        await facade.end(deadline_s)
    except TimeoutError:  # a thread's statement with a long SET LOCAL statement_timeout, or a server that is stuck
        facade.is_cancelled = True
        with contextlib.suppress(psycopg.Error, OSError):
            await connection.cancel_safe(timeout=connection.times.cancel_s)
        await facade.end(connection.times.cancel_s)
        return AttemptFailed("a statement was still running after its handler had returned")
    if not connection.broken and connection.pgconn.transaction_status not in _IN_TRANSACTION:
        return AttemptFailed("a statement was left unfinished that tx.execute does not support, such as COPY")
    return None


async def _roll_back(connection: PostgresConnection, failure: Exception, deadline_s: float) -> None:
    """Roll back; after a time-out, or if the transaction is gone, close the connection."""
    if isinstance(failure, TimeoutError) or connection.pgconn.transaction_status not in _IN_TRANSACTION:
        await connection.close()
        return
    async with asyncio.timeout(deadline_s):
        await connection.rollback()  # psycopg's method: it forgets statements that a schema change invalidated
