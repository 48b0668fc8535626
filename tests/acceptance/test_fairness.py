"""One event that fails neither delays the others nor waits behind all of them."""

from __future__ import annotations

from pathlib import Path

from oncecast import Event, Publisher
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.slow:app", "app_dir": Path(__file__).parents[2]}
BACKLOG = 2_500


async def test_an_event_is_tried_again_when_its_time_has_come_though_thousands_wait(stack_of: StackOf) -> None:
    environment = {"EVENT_RETRY_DELAY": "200ms"}
    async with (
        stack_of(**APP, listeners=1, environment=environment) as stack,
        Publisher(stack.publish_url) as publisher,
    ):
        await publisher.publish_many([Event.new("failing", id="f"), *(Event.new("slow") for _ in range(BACKLOG))])

        async def is_dead() -> bool:
            return bool(await rows(stack, "select 1 from oncecast.events where status = 'dead'"))

        await until(is_dead)
        [(stored,)] = await rows(stack, "select count(*) from oncecast.events where status = 'stored'")
        assert 0 < stored < BACKLOG / 2, "at about 400 a second"
        await drained(stack)
