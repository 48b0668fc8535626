"""A handler that kills its process: its event is a dead letter after the limit, and no other event is harmed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from oncecast import Event, Publisher
from tests.support import counting
from tests.support.stacks import StackOf, rows, until

APP = {"app": "tests.support.killing:app", "app_dir": Path(__file__).parents[2]}
EVENTS = [Event.new("counted", id=f"e{n}") for n in range(200)]


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_a_handler_that_kills_its_process_harms_only_its_own_event(stack_of: StackOf, redis: str) -> None:
    """19. With the crashes counted in Redis or in PostgreSQL."""
    async with stack_of(**APP, listeners=3) as stack, Publisher(stack.publish_url) as publisher:
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        if redis == "away":
            await stack.stop("valkey")

        async def restart_loop() -> None:
            while True:
                for name in stack.listener_urls:
                    if stack.processes[name].pid is None:
                        await stack.start(name)
                await asyncio.sleep(0.1)

        async def all_have_ended() -> bool:
            return await rows(stack, "select count(*) from oncecast.events") == [(201,)]

        async with asyncio.TaskGroup() as group:
            restarting = group.create_task(restart_loop())
            await publisher.publish_many([*EVENTS[:100], Event.new("killing", id="killer"), *EVENTS[100:]])
            await until(all_have_ended, within_s=120)
            restarting.cancel()
        assert await rows(stack, "select id, error from oncecast.dead_letters") == [
            ("killer", "CrashLoop: 2 processes died while handling it alone")
        ]
        assert await rows(stack, "select count(*), min(count), max(count) from public.effects") == [(200, 1, 1)]
