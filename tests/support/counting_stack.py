"""A stack whose application counts its effects, and outages of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from oncecast.embedded import Stack
from tests.support import counting
from tests.support.judge import Publications, acknowledged
from tests.support.stacks import StackOf, rows, until

APP = {"app": "tests.support.counting:app", "app_dir": Path(__file__).parents[2]}


@pytest.fixture
async def stack(stack_of: StackOf) -> AsyncIterator[Stack]:
    """A stack with two listeners and a producer, whose tables exist."""
    async with stack_of(**APP, environment={"RECONNECT_MAX": "2s"}) as running:
        async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        yield running


async def stop_and_start(stack: Stack, publications: Publications, name: str, outage_s: float) -> None:
    """Stop processes and start them again, with events before and after."""
    await acknowledged(publications, 200)
    await stack.stop(name)
    await asyncio.sleep(outage_s)
    await stack.start(name)
    await acknowledged(publications, 200)


async def until_a_handler_writes(stack: Stack) -> str:
    """Wait until a handler has written its effect and not yet returned; return the name of its listener."""
    query = (
        "select split_part(application_name, ' ', 2) from pg_stat_activity"
        " where state = 'idle in transaction' and query like '%effects%'"
    )

    async def is_writing() -> list[tuple[str]]:
        return await rows(stack, query)

    name: str = (await until(is_writing))[0][0]
    return name
