"""A connection goes on watching its socket from answer to answer, and is to be relied on like psycopg's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg import generators
from psycopg.pq import TransactionStatus

from oncecast.stores.postgres.connection import Connection
from oncecast.stores.postgres.message import send

LARGE = 40_000_000
"""Letters that no socket takes at once."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Test = Callable[[Connection, Connection], Awaitable[None]]


def on_each_loop(test: Test) -> Callable[[str, str], None]:
    """Both loops that Oncecast runs on have their own ways with a socket that is watched."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str, postgres_url: str) -> None:
        async def with_connections() -> None:
            async with (
                await Connection.connect(postgres_url, autocommit=True) as operator,
                await Connection.connect(postgres_url, autocommit=True) as connection,
                asyncio.timeout(30),
            ):
                await test(connection, operator)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(with_connections())

    return run


async def answer(connection: Connection, query: str) -> Any:
    return await (await connection.execute(query)).fetchone()


async def sleeping(connection: Connection) -> asyncio.Task[Any]:
    """A statement that is under way."""
    task = asyncio.create_task(answer(connection, "select pg_sleep(60)"))
    while connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        await asyncio.sleep(0)
    return task


async def end_session(connection: Connection, operator: Connection) -> None:
    await operator.execute("select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))


@on_each_loop
async def test_a_statement_whose_caller_is_cancelled_ends_and_the_connection_answers_the_next(
    connection: Connection, operator: Connection
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
    connection: Connection, operator: Connection
) -> None:
    with pytest.raises(TimeoutError):
        await send(connection, b"select pg_sleep(60)", 0.05)
    assert await answer(connection, "select 7") == (7,)


@on_each_loop
async def test_a_deadline_that_was_kept_befalls_nobody_after(connection: Connection, operator: Connection) -> None:
    await send(connection, b"select 1", 0.05)
    assert await answer(connection, "select 7 from pg_sleep(0.1)") == (7,)


@on_each_loop
async def test_what_no_socket_takes_at_once_arrives_and_comes_back_whole(
    connection: Connection, operator: Connection
) -> None:
    text = "x" * LARGE
    assert await (await connection.execute("select %s::text", (text,))).fetchone() == (text,)
    [result] = await send(connection, f"select '{text}'".encode())
    assert result.get_value(0, 0) == text.encode()


@on_each_loop
async def test_a_session_that_the_server_ends_is_no_longer_watched_and_says_so(
    connection: Connection, operator: Connection
) -> None:
    await answer(connection, "select 1")
    socket, loop = connection.pgconn.socket, asyncio.get_running_loop()
    await end_session(connection, operator)
    while connection._watch is not None:
        await asyncio.sleep(0)
    assert not loop.remove_reader(socket)
    with pytest.raises(psycopg.OperationalError):
        await answer(connection, "select 1")
    assert connection.broken


@on_each_loop
async def test_the_number_of_a_socket_that_was_closed_serves_the_next_connection(
    connection: Connection, operator: Connection
) -> None:
    await answer(connection, "select 1")
    await serves_the_next(connection, operator)


@on_each_loop
async def test_the_number_of_a_socket_that_was_lost_serves_the_next_connection(
    connection: Connection, operator: Connection
) -> None:
    task = await sleeping(connection)
    await serves_the_next(connection, operator, task)


async def serves_the_next(connection: Connection, operator: Connection, lost: Awaitable[Any] | None = None) -> None:
    socket = connection.pgconn.socket
    if lost is not None:
        await end_session(connection, operator)
        with pytest.raises(psycopg.OperationalError):
            await lost
    else:
        await connection.close()
    async with await Connection.connect(
        operator.info.dsn, autocommit=True, password=operator.info.password
    ) as next_one:
        assert next_one.pgconn.socket == socket
        assert await answer(next_one, "select 7") == (7,)


@on_each_loop
async def test_whoever_waits_on_a_connection_that_is_closed_is_told(
    connection: Connection, operator: Connection
) -> None:
    task = await sleeping(connection)
    await connection.close()
    with pytest.raises(psycopg.OperationalError):
        await task


@on_each_loop
async def test_psycopgs_own_deadline_is_kept_too(connection: Connection, operator: Connection) -> None:
    await answer(connection, "select 1")
    connection.pgconn.send_query(b"select pg_sleep(60)")
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        await connection.wait(generators.execute(connection.pgconn), timeout=0.05)
    await connection.close()
