"""What comes from outside is not charged to the event, and a handler cannot take its own event's row away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import Cost, TransactionConflict, Unavailable, classify
from oncecast.core.outcomes import Outcome
from oncecast.core.transaction import Transaction
from oncecast.stores.postgres import Database, PostgresDeadLetters, PostgresEvents
from oncecast.stores.postgres.database import Limits
from oncecast.stores.postgres.errors import is_interrupted
from tests.support.places import arrival
from tests.support.stacks import until

SLEEP = "select pg_catalog.pg_sleep(60)"


@pytest.fixture
async def store(postgres_url: str, schema: str) -> AsyncIterator[PostgresEvents]:
    limits = Limits(lock_s=0.3, statement_s=30.0)
    database = Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16, limits=limits)
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    yield store
    await store.close()


async def interrupt(sql: psycopg.AsyncConnection[Any], schema: str, function: str) -> None:
    """As an administrator would, once the handler's statement is under way: `schema` is in its words."""
    query = f"select pg_catalog.{function}(pid) from pg_stat_activity where query = %s and state = 'active'"

    async def is_done() -> bool:
        return bool(await (await sql.execute(query, (f"{SLEEP} -- {schema}",))).fetchall())

    await until(is_done)


def sleeping(schema: str) -> Any:
    async def work(tx: Transaction) -> None:
        await tx.execute(f"{SLEEP} -- {schema}")

    return work


def swallowing(schema: str) -> Any:
    async def work(tx: Transaction) -> None:
        with contextlib.suppress(psycopg.Error):
            await tx.execute(f"{SLEEP} -- {schema}")

    return work


def wrapping(schema: str) -> Any:
    async def work(tx: Transaction) -> None:
        try:
            await tx.execute(f"{SLEEP} -- {schema}")
        except psycopg.Error as error:
            raise ValueError("the handler's own") from error

    return work


def surviving(schema: str) -> Any:
    async def work(tx: Transaction) -> None:
        with contextlib.suppress(psycopg.Error):
            async with tx.savepoint():
                await tx.execute(f"{SLEEP} -- {schema}")

    return work


@pytest.mark.parametrize("work", [sleeping, swallowing, wrapping])
async def test_a_statement_that_an_administrator_cancels_is_not_charged_to_its_event(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str, work: Any
) -> None:
    attempt = asyncio.create_task(store.process(arrival(1), work(schema)))
    await interrupt(sql, schema, "pg_cancel_backend")
    with pytest.raises(TransactionConflict, match="cancelled a statement"):
        await attempt


async def test_a_handler_that_survives_the_cancelled_statement_in_a_savepoint_ends_its_event(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    attempt = asyncio.create_task(store.process(arrival(1), surviving(schema)))
    await interrupt(sql, schema, "pg_cancel_backend")
    assert await attempt is Outcome.STORED


async def test_a_session_that_an_administrator_ends_is_not_charged_to_its_event(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    attempt = asyncio.create_task(store.process(arrival(1), sleeping(schema)))
    await interrupt(sql, schema, "pg_terminate_backend")
    with pytest.raises(Unavailable, match="connection was lost"):
        await attempt


async def test_a_statement_that_runs_into_its_own_time_out_is_a_failed_attempt(store: PostgresEvents) -> None:
    async def work(tx: Transaction) -> None:
        await tx.execute("set local statement_timeout = '50ms'")
        await tx.execute(SLEEP)

    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        await store.process(arrival(1), work)
    assert classify(raised.value) is Cost.RETRY


@pytest.mark.parametrize(
    ("words", "took_s", "interrupted"),
    [
        ("canceling statement due to user request", 40.0, True),
        ("canceling statement due to statement timeout", 0.1, False),
        ("Anfrage wird storniert wegen Benutzeraufforderung", 0.1, True),
        ("Anfrage wird storniert wegen Zeitüberschreitung der Anfrage", 30.1, False),
    ],
)
def test_in_other_languages_a_statement_that_ended_before_its_time_was_cancelled(
    words: str, took_s: float, interrupted: bool
) -> None:
    error = psycopg.errors.QueryCanceled(words)
    assert is_interrupted(error, took_s=took_s, timeout_s=30.0) is interrupted


# --- a handler and the row of its own event -----------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "delete from {0}.events where id = 'own'",
        "delete from {0}.events",
        "update {0}.events set id = 'another' where id = 'own'",
        "update {0}.events set source = '/another'",
        "truncate {0}.events cascade",
    ],
)
@pytest.mark.parametrize("in_savepoint", [False, True])
async def test_a_handler_that_deletes_the_row_of_its_own_event_fails(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str, statement: str, in_savepoint: bool
) -> None:
    await sql.execute("create table effects (id text)")
    await store.insert([arrival(1, "before")])

    async def work(tx: Transaction) -> None:
        await tx.execute(f'insert into "{schema}".effects values (1)')
        async with tx.savepoint() if in_savepoint else contextlib.nullcontext():
            await tx.execute(statement.format(f'"{schema}"'))

    with pytest.raises(psycopg.errors.RaiseException, match="the row of its own event") as raised:
        await store.process(arrival(2, "own"), work)
    assert classify(raised.value) is Cost.RETRY
    assert await (await sql.execute("select id from events union select id from effects")).fetchall() == [("before",)]


async def test_a_handler_may_still_delete_the_rows_of_other_events_that_have_ended(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    await store.insert([arrival(1, "before")])

    async def work(tx: Transaction) -> None:
        await tx.execute(f"delete from \"{schema}\".events where id = 'before'")

    assert await store.process(arrival(2, "own"), work) is Outcome.STORED
    assert await (await sql.execute("select id from events")).fetchall() == [("own",)]


async def test_a_replayed_dead_letter_cannot_take_its_row_away_either(
    store: PostgresEvents, postgres_url: str, schema: str
) -> None:
    await store.dead_letter(arrival(1, "own"), ValueError("no"))
    database = Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance="b", token="b" * 16)
    await database.open()

    async def work(_arrival: Any, tx: Transaction) -> None:
        await tx.execute(f"delete from \"{schema}\".events where id = 'own'")

    with pytest.raises(psycopg.errors.RaiseException, match="the row of its own event"):
        await PostgresDeadLetters(database).replay("/oncecast", "own", work)
    await database.close()


async def test_a_handler_of_several_events_cannot_take_any_of_their_rows_away(
    store: PostgresEvents, schema: str
) -> None:
    async def work(tx: Transaction, _new: Any) -> None:
        await tx.execute(f"delete from \"{schema}\".events where id = 'two'")

    with pytest.raises(psycopg.errors.RaiseException, match="the row of its own event"):
        await store.process_together([arrival(1, "one"), arrival(2, "two")], work)
