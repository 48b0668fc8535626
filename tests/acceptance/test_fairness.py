"""One event that fails neither delays the others nor waits behind all of them."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from oncecast import Event, Publisher
from tests.support.stacks import StackOf, drained, rows, until

LOCKED = {"app": "tests.support.locked:app", "app_dir": Path(__file__).parents[2]}
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


@pytest.mark.parametrize("type", ["order", "shared"])
async def test_events_that_wait_for_a_lock_of_somebody_elses_hold_up_no_others_and_are_stored_in_the_end(
    stack_of: StackOf, type: str
) -> None:
    async with (
        stack_of(**LOCKED, listeners=1, environment={"LOCK_TIMEOUT": "500ms"}) as stack,
        Publisher(stack.publish_url) as publisher,
        await psycopg.AsyncConnection.connect(stack.database_url) as operator,
    ):
        await operator.execute("create table public.stock (sku text primary key, free integer not null)")
        await operator.execute("insert into public.stock values ('locked', 0), ('other', 0)")
        await operator.commit()
        await operator.execute("update public.stock set free = free + 0 where sku = 'locked'")
        of_skus = ["locked", *["other"] * 5] * 60
        await publisher.publish_many([Event.new(type, subject=sku) for sku in of_skus])

        async def are_others_through() -> bool:
            return await rows(stack, "select free from public.stock where sku = 'other'") == [(-300,)]

        await until(are_others_through)
        assert await rows(stack, "select count(*) from oncecast.events") == [(300,)]
        await operator.rollback()
        await drained(stack)
        assert await rows(stack, "select free from public.stock where sku = 'locked'") == [(-60,)]
        assert await rows(stack, "select count(*) from oncecast.events where status = 'stored'") == [(360,)]
