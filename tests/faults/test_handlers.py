"""Handlers cannot break the promise.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import psycopg

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import counting
from tests.support.counting_stack import APP
from tests.support.stacks import StackOf, rows, until


async def test_an_event_whose_handler_swallows_an_sql_error_is_never_stored(stack: Stack) -> None:
    """18."""
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("swallows", id="s"))

        async def dead() -> object:
            return await rows(stack, "select status from oncecast.events where id = 's'")

        assert await until(dead) == [("dead",)]
    assert await rows(stack, "select count from public.effects where id = 's'") == []
    ((attempts, error),) = await rows(stack, "select attempts, error from oncecast.dead_letters")
    assert (attempts, "swallowed an SQL error" in error) == (3, True)


async def test_a_handler_that_never_returns_is_ended_by_its_time_out(stack_of: StackOf) -> None:
    """20."""
    limits = {"HANDLER_TIMEOUT": "500ms", "EVENT_ATTEMPTS": "2", "EVENT_RETRY_DELAY": "50ms"}
    async with stack_of(**APP, environment=limits) as stack, Publisher(stack.publish_url) as publisher:
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        await publisher.publish_many([Event.new("slow", {"seconds": 3600}, id="s"), Event.new("counted", id="c")])

        async def both_have_ended() -> object:
            found = await rows(stack, "select id, status, attempts from oncecast.events order by id")
            return found if len(found) == 2 else None

        assert await until(both_have_ended) == [("c", "stored", 1), ("s", "dead", 2)]
        assert await rows(stack, "select id, count from public.effects") == [("c", 1)]
        reported = "TimeoutError: the handler took longer than HANDLER_TIMEOUT, 0.5 s"
        assert await rows(stack, "select error from oncecast.dead_letters") == [(reported,)]
