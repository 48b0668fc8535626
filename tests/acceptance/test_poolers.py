"""DATABASE_URL may lead to a pooler of sessions; one that mixes sessions is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import StartError, Unavailable
from oncecast.core.outcomes import Outcome
from oncecast.core.transaction import Transaction
from oncecast.stores.postgres import Database, PostgresEvents
from oncecast.stores.postgres.database import Limits
from tests.acceptance.test_start import ended, starting
from tests.support.places import arrival
from tests.support.poolers import PoolerOf, pooler_of
from tests.support.stacks import until
from tests.support.whole_round import prepare, whole_round

__all__ = ["pooler_of"]
MIXING = ("transaction", "statement")
EVENTS = 300


def database_of(url: str, schema: str, token: str = "a" * 16) -> Database:
    return Database(
        url, SYSTEM_CLOCK, schema=schema, instance="a", token=token, limits=Limits(lock_s=1.0, statement_s=10.0)
    )


@pytest.fixture
async def sql(postgres_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Past the pooler."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("mode", MIXING)
async def test_a_pooler_that_mixes_sessions_is_refused_at_the_start_in_one_line_that_says_what_to_do(
    pooler_of: PoolerOf, tmp_path: Path, schema: str, mode: str
) -> None:
    url = pooler_of(mode).url
    environment = {"PORT": "0", "DATABASE_URL": url, "LISTENER_GROUP": schema, "START_ATTEMPTS": "1"}
    async with starting(tmp_path, "listener", **environment) as process:
        status, _, err = await ended(process)
    assert (status, len(err)) == (1, 1)
    assert err[0].startswith("oncecast: DATABASE_URL leads to a pooler in transaction or statement mode (")
    assert "use session pooling (PgBouncer: pool_mode=session)" in err[0]


@pytest.mark.parametrize("mode", MIXING)
@pytest.mark.parametrize("round_robin", [False, True])
@pytest.mark.parametrize("others", [0, 1, 7])
async def test_a_pooler_that_mixes_sessions_is_found_whatever_else_it_serves(
    pooler_of: PoolerOf, schema: str, mode: str, round_robin: bool, others: int
) -> None:
    url = pooler_of(mode, round_robin=round_robin).url
    ready, stop = asyncio.Semaphore(0), asyncio.Event()

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
            await connection.execute("select 1")
            ready.release()
            while not stop.is_set():
                await connection.execute("select 1")

    async with asyncio.TaskGroup() as group:
        for _ in range(others):
            group.create_task(work())
        for _ in range(others):
            await ready.acquire()
        for _ in range(5):
            with pytest.raises(StartError, match="leads to a pooler"):
                await database_of(url, schema).prepare()
        stop.set()


async def test_a_pooler_of_sessions_does_whatever_a_listener_asks(
    pooler_of: PoolerOf, postgres_url: str, sql: psycopg.AsyncConnection[Any]
) -> None:
    """All of it as without one, the end of a dead listener's sessions too."""
    await prepare(postgres_url)
    try:
        through = await whole_round(pooler_of("session").url)
        await sql.execute("drop schema shop cascade; truncate public.effects")
        assert through == await whole_round(postgres_url)
        assert through["sessions ended"] == "silent"
    finally:
        await sql.execute("drop schema if exists shop cascade; drop table public.effects")


async def test_a_pool_that_is_too_small_is_reported(pooler_of: PoolerOf, schema: str) -> None:
    limits = Limits(connect_s=0.5)
    url = pooler_of("session", size=1).url
    database = Database(url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16, limits=limits)
    with pytest.raises(Unavailable, match="its pool is too small"):
        await database.prepare()


async def test_a_pooler_whose_mode_changes_meanwhile_mixes_no_handlers_and_is_noticed(
    pooler_of: PoolerOf, schema: str, sql: psycopg.AsyncConnection[Any]
) -> None:
    pooler = pooler_of("session")
    databases = [database_of(pooler.url, schema, token * 16) for token in "ab"]
    for database in databases:
        await database.open()
        await database.prepare()
    stores = [PostgresEvents(database) for database in databases]
    for number in range(2):
        await sql.execute(f"create table {schema}.effects_{number} (id text)")

    async def process(offset: int) -> bool:
        """Events of each store insert into the table of that store."""
        number = offset % 2

        async def work(tx: Transaction) -> None:
            await tx.execute(f"insert into {schema}.effects_{number} values (%s)", (f"id-{offset}",))

        try:
            return await stores[number].process(arrival(offset), work) is Outcome.STORED
        except Unavailable as error:
            assert "leads to a pooler" in str(error) or "connection" in str(error)
            return False

    assert all(await asyncio.gather(*map(process, range(1, EVENTS))))
    pooler.change_mode("transaction")
    stored = await asyncio.gather(*map(process, range(EVENTS, 2 * EVENTS)))
    assert not all(stored)
    with pytest.raises(Unavailable, match="leads to a pooler"):
        await stores[0].renew()
    pooler.change_mode("session")

    async def renewed() -> bool:
        try:
            await stores[0].renew()
            await stores[1].renew()
        except Unavailable:
            return False
        return True

    await until(renewed)
    again = [offset for offset, done in enumerate(stored, EVENTS) if not done]
    while again:
        done = await asyncio.gather(*map(process, again))
        again = [offset for offset, is_done in zip(again, done, strict=True) if not is_done]
    cursor = await sql.execute(
        f"select count(*) from {schema}.events e where 1 <> (select count(*) from {schema}.effects_0 f"
        f' where f.id = e.id and e."offset" % 2 = 0) + (select count(*) from {schema}.effects_1 f'
        f' where f.id = e.id and e."offset" % 2 = 1)'
    )
    assert await cursor.fetchone() == (0,)
    cursor = await sql.execute(f"select (select count(*) from {schema}.effects_0) + count(*) from {schema}.effects_1")
    assert await cursor.fetchone() == (2 * EVENTS - 1,)
    for database in databases:
        await database.close()
