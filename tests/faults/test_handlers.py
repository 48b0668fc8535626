"""Handlers cannot break the promise.

The numbers are those of the list of faults in docs/promise.md.
"""

from __future__ import annotations

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support.stacks import rows, until


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
