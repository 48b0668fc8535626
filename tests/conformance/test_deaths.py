"""What processes died of is counted by whoever comes next under the same name, and by the whole group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from oncecast.core.ports import Deaths
from oncecast.stores.postgres import Database, PostgresDeaths
from oncecast.testing.memory import MemoryDeaths, MemoryPostgres
from tests.support.arrivals import arrivals

DeathsOf = Callable[[str], Awaitable[Deaths]]
(EVENT,) = arrivals(1)


@pytest.fixture(params=["postgres", "memory"])
async def deaths_of(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[DeathsOf]:
    databases: list[Database] = []
    server = MemoryPostgres()

    async def of(instance: str) -> Deaths:
        if request.param == "memory":
            return MemoryDeaths(server, instance=instance, token="t")
        url = request.getfixturevalue("postgres_url")
        database = Database(url, schema=schema, instance=instance, token="t")
        await database.open()
        databases.append(database)
        await database.migrate()
        return PostgresDeaths(database)

    yield of
    for database in databases:
        await database.close()


async def test_who_comes_after_one_that_ended_in_order_has_nothing_to_doubt(deaths_of: DeathsOf) -> None:
    deaths = await deaths_of("a")
    assert not await deaths.begin_running()
    await deaths.end_running()
    assert not await deaths.begin_running()


async def test_who_comes_after_one_that_ended_without_a_word_is_told(deaths_of: DeathsOf) -> None:
    deaths = await deaths_of("a")
    await deaths.begin_running()
    assert await deaths.begin_running()
    assert not await (await deaths_of("b")).begin_running()


async def test_what_was_attempted_alone_when_its_process_died_is_charged_with_it_for_the_whole_group(
    deaths_of: DeathsOf,
) -> None:
    a, b = await deaths_of("a"), await deaths_of("b")
    for died, deaths in enumerate((a, b)):
        await deaths.begin_running()
        assert await deaths.accuse(EVENT) == died
        await deaths.begin_running()
    assert await a.accuse(EVENT) == 2


async def test_what_was_survived_is_charged_with_nothing(deaths_of: DeathsOf) -> None:
    deaths = await deaths_of("a")
    await deaths.begin_running()
    await deaths.accuse(EVENT)
    await deaths.acquit(EVENT)
    await deaths.begin_running()
    assert await deaths.accuse(EVENT) == 0


async def test_only_what_was_accused_last_is_charged_for_an_acquittal_may_be_lost(deaths_of: DeathsOf) -> None:
    deaths = await deaths_of("a")
    before, last = arrivals(2)
    await deaths.begin_running()
    await deaths.accuse(before)
    await deaths.accuse(last)
    await deaths.begin_running()
    assert await deaths.accuse(last) == 1
    assert await deaths.accuse(before) == 0
