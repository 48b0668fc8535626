"""A crash is counted once for the whole group: by the listener that takes over, or the next process of the name."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.crash_counts import (
    CrashCounts,
    after_crash_of_listener,
    after_crash_of_owner,
    begin_alone,
    end_alone,
)
from oncecast.core.ports import CrashLog
from oncecast.stores.postgres import Database, PostgresCrashLog
from oncecast.testing.memory import MemoryCrashLog, MemoryPostgres
from tests.support.arrivals import arrivals

CrashLogOf = Callable[..., Awaitable[CrashLog]]
(EVENT,) = arrivals(1)


@pytest.fixture(params=["postgres", "memory"])
async def crash_log_of(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[CrashLogOf]:
    databases: list[Database] = []
    server = MemoryPostgres()

    async def of(instance: str, token: str = "t") -> CrashLog:
        if request.param == "memory":
            return MemoryCrashLog(server, instance=instance, token=token)
        url = request.getfixturevalue("postgres_url")
        database = Database(url, SYSTEM_CLOCK, schema=schema, instance=instance, token=token)
        await database.open()
        databases.append(database)
        await database.migrate()
        return PostgresCrashLog(database)

    yield of
    for database in databases:
        await database.close()


async def test_after_an_orderly_end_the_next_process_of_the_listener_finds_no_crash(crash_log_of: CrashLogOf) -> None:
    crash_log = await crash_log_of("a")
    assert not await crash_log.register_process()
    await crash_log.unregister_process()
    assert not await crash_log.register_process()


async def test_after_a_crash_the_next_process_of_the_listener_finds_it(crash_log_of: CrashLogOf) -> None:
    crash_log = await crash_log_of("a")
    await crash_log.register_process()
    assert await crash_log.register_process()
    assert not await (await crash_log_of("b")).register_process()


async def test_an_event_that_ran_alone_when_its_process_died_is_charged_for_the_whole_group(
    crash_log_of: CrashLogOf,
) -> None:
    a, b = await crash_log_of("a"), await crash_log_of("b")
    for died, crash_log in enumerate((a, b)):
        await crash_log.register_process()
        assert await crash_log.begin_isolated(EVENT) == died
        await crash_log.register_process()
    assert await a.begin_isolated(EVENT) == 2


async def test_what_was_survived_is_charged_with_nothing(crash_log_of: CrashLogOf) -> None:
    crash_log = await crash_log_of("a")
    await crash_log.register_process()
    await crash_log.begin_isolated(EVENT)
    await crash_log.end_isolated(EVENT)
    await crash_log.register_process()
    assert await crash_log.begin_isolated(EVENT) == 0


async def test_only_the_last_event_begun_alone_is_charged_because_its_end_may_be_lost(
    crash_log_of: CrashLogOf,
) -> None:
    crash_log = await crash_log_of("a")
    before, last = arrivals(2)
    await crash_log.register_process()
    await crash_log.begin_isolated(before)
    await crash_log.begin_isolated(last)
    await crash_log.register_process()
    assert await crash_log.begin_isolated(last) == 1
    assert await crash_log.begin_isolated(before) == 0


async def test_a_crash_is_charged_once_although_it_is_counted_repeatedly(crash_log_of: CrashLogOf) -> None:
    crashed, other = await crash_log_of("a", "token a"), await crash_log_of("b", "token b")
    await crashed.register_process()
    await crashed.begin_isolated(EVENT)
    await other.count_crash("token a")
    await other.count_crash("token a")
    await crashed.register_process()
    assert await other.begin_isolated(EVENT) == 1


async def test_a_crash_is_not_charged_to_what_the_next_process_of_the_same_name_runs(
    crash_log_of: CrashLogOf,
) -> None:
    crashed, after = await crash_log_of("a", "token 1"), await crash_log_of("a", "token 2")
    await crashed.begin_isolated(EVENT)
    await after.begin_isolated(EVENT)
    await (await crash_log_of("b", "token b")).count_crash("token 1")
    assert await after.begin_isolated(EVENT) == 0


async def test_every_store_counts_as_the_core_does(crash_log_of: CrashLogOf) -> None:
    """PostgreSQL counts in one statement, which nothing else proves to be the same rule."""
    listeners = {name: await crash_log_of(name, f"token {name}") for name in "ab"}
    counts: CrashCounts = {}
    events, draw = arrivals(2), random.Random(1)
    for name in "ab":
        await listeners[name].register_process()
    for _ in range(80):
        name, event = draw.choice("ab"), draw.choice(events)
        match draw.randrange(4):
            case 0:
                assert await listeners[name].register_process()
                counts = after_crash_of_listener(counts, name)
            case 1:
                counts = after_crash_of_owner(counts, f"token {name}")
                await listeners["a"].count_crash(f"token {name}")
            case 2:
                counts, deaths = begin_alone(counts, event.identity, name, f"token {name}")
                assert await listeners[name].begin_isolated(event) == deaths
            case _:
                counts = end_alone(counts, event.identity, name)
                await listeners[name].end_isolated(event)
