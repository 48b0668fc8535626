"""A connection survives the cancellation of a statement, and never cancels a COMMIT."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import uvloop
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.waiting import WAIT_R

from oncecast.chaos.links import Link
from oncecast.stores.postgres.connection import AnswerTimes, PostgresConnection
from oncecast.stores.postgres.message import send

LARGE = 40_000_000
"""Letters that no socket takes at once."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Test = Callable[[PostgresConnection, PostgresConnection], Awaitable[None]]


def on_each_loop(test: Test) -> Callable[[str, str], None]:
    """Both loops that Oncecast runs on have their own ways with a socket that is watched."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str, postgres_url: str) -> None:
        async def with_connections() -> None:
            async with (
                await PostgresConnection.connect(postgres_url, autocommit=True) as operator,
                await PostgresConnection.connect(postgres_url, autocommit=True) as connection,
                asyncio.timeout(120),
            ):
                await test(connection, operator)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(with_connections())

    return run


async def answer(connection: PostgresConnection, query: str) -> Any:
    return await (await connection.execute(query)).fetchone()


async def sleeping(connection: PostgresConnection) -> asyncio.Task[Any]:
    """A statement that is under way."""
    task = asyncio.create_task(answer(connection, "select pg_sleep(60)"))
    while connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        await asyncio.sleep(0)
    return task


@contextmanager
def frozen(connection: PostgresConnection) -> Iterator[None]:
    """Its session stands still."""
    pid = connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def end_session(connection: PostgresConnection, operator: PostgresConnection) -> None:
    await operator.execute("select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))


@on_each_loop
async def test_a_statement_whose_caller_is_cancelled_ends_and_the_connection_answers_the_next(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    task = await sleeping(connection)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_rest = f"select state from pg_stat_activity where pid = {connection.info.backend_pid}"
    assert await answer(operator, at_rest) == ("idle",)
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_statement_that_takes_too_long_ends_and_the_connection_answers_the_next(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    with pytest.raises(TimeoutError):
        await send(connection, b"select pg_sleep(60)", 0.05)
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_deadline_that_was_met_interrupts_nothing_later(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    await send(connection, b"select 1", 0.05)
    assert await answer(connection, "select 7 from pg_sleep(0.1)") == (7,)


@on_each_loop
async def test_what_no_socket_takes_at_once_arrives_and_comes_back_whole(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    text = "x" * LARGE
    assert await (await connection.execute("select %s::text", (text,))).fetchone() == (text,)
    [result] = await send(connection, f"select '{text}'".encode())
    assert result.get_value(0, 0) == text.encode()


@on_each_loop
async def test_a_cancel_that_the_server_refuses_leaves_the_statement_to_end_by_itself(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    async def refuse(**_: Any) -> None:
        raise psycopg.OperationalError("no cancel here")

    with patch.object(connection, "cancel_safe", refuse), pytest.raises(TimeoutError):
        await send(connection, b"select pg_sleep(0.6)", 0.05)
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_server_that_has_not_heard_is_asked_again(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    """A cancel that comes before the statement it is meant for is none."""
    asked = 0
    cancel = connection.cancel_safe

    async def too_early(**options: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            await cancel(**options)

    connection.times = AnswerTimes(cancel_again_s=0.05)
    with patch.object(connection, "cancel_safe", too_early):
        task = await sleeping(connection)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert asked >= 2
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_statement_that_cannot_be_ended_breaks_its_connection(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    connection.times = AnswerTimes(cancel_s=0.3)
    with frozen(connection):
        task = await sleeping(connection)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert connection.broken


@on_each_loop
async def test_a_caller_that_is_cancelled_twice_returns_at_once_and_its_connection_is_broken(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    cancelling = asyncio.Event()

    async def never_answer(**_: Any) -> None:
        cancelling.set()
        await asyncio.Event().wait()

    with patch.object(connection, "cancel_safe", never_answer):
        task = await sleeping(connection)
        task.cancel()
        await cancelling.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert connection.broken


@on_each_loop
async def test_a_statement_that_is_cancelled_while_it_is_sent_leaves_its_connection_of_use(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    with frozen(connection):  # it reads nothing, so that the message stands half way
        task = asyncio.create_task(send(connection, b"select '" + b"x" * LARGE + b"'"))
        while connection._unwatched.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_task_that_waits_on_a_socket_gets_an_error_when_it_is_reset(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    async with Link("postgresql", operator.info.port) as link:
        address = make_conninfo(operator.info.dsn, port=link.port, password=operator.info.password)
        async with await PostgresConnection.connect(address, autocommit=True) as far:
            task = await sleeping(far)
            link.inject("reset", "both")
            with pytest.raises(psycopg.OperationalError):
                await task
            assert far.broken


@on_each_loop
async def test_a_session_that_the_server_ends_says_so(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    await answer(connection, "select 1")
    await end_session(connection, operator)
    with pytest.raises(psycopg.OperationalError):
        await answer(connection, "select 1")
    assert connection.broken


@on_each_loop
async def test_the_number_of_a_socket_that_was_closed_serves_the_next_connection(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    await answer(connection, "select 1")
    await serves_the_next(connection, operator)


@on_each_loop
async def test_the_number_of_a_socket_that_was_lost_serves_the_next_connection(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    task = await sleeping(connection)
    await serves_the_next(connection, operator, task)


async def serves_the_next(
    connection: PostgresConnection, operator: PostgresConnection, lost: Awaitable[Any] | None = None
) -> None:
    socket = connection.pgconn.socket
    if lost is not None:
        await end_session(connection, operator)
        with pytest.raises(psycopg.OperationalError):
            await lost
    else:
        await connection.close()
    async with await PostgresConnection.connect(
        operator.info.dsn, autocommit=True, password=operator.info.password
    ) as next_one:
        assert next_one.pgconn.socket == socket
        assert await answer(next_one, "select 7") == (7,)


@on_each_loop
async def test_a_task_that_waits_on_a_connection_gets_an_error_when_it_is_closed(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    task = await sleeping(connection)
    await connection.close()
    with pytest.raises(psycopg.OperationalError):
        await task


@on_each_loop
async def test_nothing_that_libpq_has_freed_is_touched_when_a_connection_is_closed(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    resumed: list[object] = []

    def asks() -> PQGen[None]:
        connection.pgconn.send_query(b"select pg_sleep(60)")
        resumed.append((yield WAIT_R))

    task = asyncio.create_task(connection.wait(asks()))
    while connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(psycopg.OperationalError, match="the connection is closed"):
        await task
    assert resumed == []


@on_each_loop
async def test_an_error_of_its_own_that_a_cancelled_statement_ends_with_leaves_the_connection_of_use(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    async def late(**_: Any) -> None:
        await answer(operator, "select 1 from pg_sleep(0.2)")

    fails_soon = "do $$ begin perform pg_sleep(0.1); raise 'its own'; end $$"
    with patch.object(connection, "cancel_safe", late):
        task = asyncio.create_task(connection.execute(fails_soon))
        while connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_cancel_that_may_come_yet_breaks_its_connection(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    async def in_vain(**_: Any) -> None:
        raise psycopg.errors.CancellationTimeout("no answer")

    with patch.object(connection, "cancel_safe", in_vain), pytest.raises(TimeoutError):
        await send(connection, b"select pg_sleep(5)", 0.05)
    assert connection.broken


@on_each_loop
async def test_a_commit_that_we_do_not_wait_for_any_more_is_not_cancelled(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    """One that waits for a standby would be done then, without it; one that is held up here would be rolled back."""
    schema = f"commits_{connection.info.backend_pid}"
    await operator.execute(
        f"create schema {schema}; create table {schema}.rows (n integer);"
        f" create function {schema}.wait() returns trigger language plpgsql as"
        " 'begin perform pg_sleep(2); return null; end';"
        f" create constraint trigger waits after insert on {schema}.rows initially deferred"
        f" for each row execute function {schema}.wait()"
    )
    await connection.execute("begin")
    await connection.execute(f"insert into {schema}.rows values (1)")
    with pytest.raises(TimeoutError):
        await send(connection, b"commit", 0.01, commits=True)
    assert connection.broken
    while await answer(operator, f"select count(*) from {schema}.rows") != (1,):
        await asyncio.sleep(0)
    await operator.execute(f"drop schema {schema} cascade")


@on_each_loop
async def test_psycopgs_own_deadline_is_kept_too(
    connection: PostgresConnection, operator: PostgresConnection
) -> None:
    await answer(connection, "select 1")
    connection.pgconn.send_query(b"select pg_sleep(60)")
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        await connection.wait(generators.execute(connection.pgconn), timeout=0.05)
    await connection.close()
