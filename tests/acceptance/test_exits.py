"""What a handler does to leave is its event's failure; an essential task that ends takes the process along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import counting
from tests.support.stacks import StackOf, rows, until

EXITS = ("exits.async", "exits.thread", "exits.task", "exits.group", "exits.interrupt")
STOPS = ("stops.callback", "stops.loop")
LOAD = 2_000
DRAIN_TIMEOUT_S = 5.0


@asynccontextmanager
async def one_listener(stack_of: StackOf) -> AsyncIterator[Stack]:
    environment = {"EVENT_RETRY_DELAY": "50ms", "DRAIN_TIMEOUT": f"{DRAIN_TIMEOUT_S}s"}
    folder = Path(__file__).parents[2]
    async with stack_of(app="tests.support.exiting:app", app_dir=folder, listeners=1, environment=environment) as it:
        async with await psycopg.AsyncConnection.connect(it.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        yield it


async def test_a_handler_that_exits_fails_its_event_alone_and_the_listener_goes_on(stack_of: StackOf) -> None:
    async with one_listener(stack_of) as stack, Publisher(stack.publish_url) as publisher:
        pid = stack.process("listener-a").pid
        events = [Event.new("counted", id=f"c-{n}") for n in range(LOAD)]
        events[100:100] = [Event.new(type, id=type) for type in (*EXITS, *STOPS)]
        await publisher.publish_many(events)

        async def ended() -> object:
            ((count,),) = await rows(stack, "select count(*) from oncecast.events")
            return count == len(events)

        await until(ended)
        dead = await rows(stack, "select id, attempts from oncecast.events where status = 'dead' order by id")
        assert dead == [(type, 3) for type in sorted(EXITS)]
        reported = await rows(stack, "select distinct error from oncecast.dead_letters order by error")
        assert reported == [
            ("AttemptFailed: the handler raised KeyboardInterrupt",),
            ("AttemptFailed: the handler raised SystemExit: 3",),
        ]
        assert await rows(stack, "select count(*), max(count) from public.effects") == [(LOAD, 1)]
        assert stack.process("listener-a").pid == pid
        assert httpx2.get(f"{stack.listener_urls['listener-a']}/livez").status_code == 200


@pytest.mark.parametrize("which", ["heartbeat", "cursor saver", "everything"])
async def test_a_listener_whose_essential_task_has_ended_exits_in_time_with_its_error_last(
    stack_of: StackOf, which: str
) -> None:
    async with one_listener(stack_of) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("counted", id=f"c-{n}") for n in range(LOAD)])
        await publisher.publish(Event.new("cancels", which, id="k"))
        listener = stack.process("listener-a")

        async def has_exited() -> bool:
            return listener.pid is None

        await until(has_exited)
        assert listener.returncode == 1
        last = (stack.folder("listener-a") / "output.log").read_text().splitlines()[-1]
        assert last.startswith("oncecast: "), last
        assert (which if which != "everything" else "cancelled") in last
