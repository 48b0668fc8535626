"""Dead letters are in one place only, and replayed once.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import counting
from tests.support.counting_stack import APP, until_a_handler_writes
from tests.support.stacks import StackOf, drained, rows, until

KILLS = 6
QUICK = {"EVENT_RETRY_DELAY": "50ms"}


async def test_the_line_of_a_dead_letter_follows_its_row_even_over_a_restart(stack: Stack) -> None:
    """22, 24."""
    await stack.stop("listener-b")
    file = stack.data / "listener-a" / "failed_events.log"

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("rejected", {"n": 1}, id="r"))

    async def logged() -> object:
        return await rows(stack, "select 1 from oncecast.dead_letters where logged_at is not null")

    await until(logged)
    (line,) = lines()
    assert (line["instance"], line["error"], line["attempts"]) == ("listener-a", "Reject: out of stock", 1)
    assert (line["event"]["id"], line["event"]["data"]) == ("r", {"n": 1})
    assert line["timestamp"].endswith("Z")
    assert file.stat().st_mode & 0o077 == 0
    await stack.kill("listener-a")
    async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
        await connection.execute("update oncecast.dead_letters set logged_at = null")
    file.write_bytes(file.read_bytes()[:-20])  # killed while it wrote the line
    await stack.start("listener-a")
    await until(logged)
    *inconsistency, last = file.read_text().splitlines()
    assert len(inconsistency) == 1
    assert json.loads(last) == line


async def test_killed_between_any_two_steps_of_dead_lettering_an_event_is_in_one_place_and_its_line_follows(
    stack_of: StackOf,
) -> None:
    """22. A listener is killed repeatedly at any moment of dead-lettering."""
    ids = [f"f{n:03}" for n in range(120)]
    async with stack_of(**APP, listeners=1, environment=QUICK) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("fails", id=id_) for id_ in ids])
        for n in range(KILLS):

            async def some_more_are_dead(wanted: int = n * 15) -> bool:
                return bool((await rows(stack, "select count(*) from oncecast.dead_letters"))[0][0] > wanted)

            await until(some_more_are_dead)
            await asyncio.sleep(random.uniform(0, 0.1))  # any moment
            await stack.kill("listener-a")
            await stack.start("listener-a")

        async def all_are_logged() -> bool:
            query = "select count(*) from oncecast.dead_letters where logged_at is not null"
            return await rows(stack, query) == [(len(ids),)]

        await until(all_are_logged, within_s=90)
        assert await rows(stack, "select status, count(*) from oncecast.events group by 1") == [("dead", len(ids))]
        lines = (stack.folder("listener-a") / "failed_events.log").read_text().splitlines()
        assert {json.loads(line)["event"]["id"] for line in lines} == set(ids)


async def test_a_replay_that_is_killed_midway_happens_once_when_it_is_asked_for_again(stack_of: StackOf) -> None:
    """23. The replay is not taken for a duplicate of its original."""
    application = {"app": "tests.support.corrected_later:app", "app_dir": Path(__file__).parents[2]}
    async with stack_of(**application, environment=QUICK) as stack, Publisher(stack.publish_url) as publisher:
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
            await publisher.publish(Event.new("order", {"seconds": 2}, id="o"))
            await until(lambda: status_of(stack, "o", "dead"))
            await connection.execute("create table public.corrected ()")
        async with httpx2.AsyncClient(timeout=30) as client:
            urls = [f"{url}/api/dead-letters/replay" for url in stack.listener_urls.values()]
            asked = asyncio.create_task(client.post(urls[0], json={"events": [{"id": "o"}]}))
            await until_a_handler_writes(stack)
            await stack.kill("listener-a")
            await asyncio.gather(asked, return_exceptions=True)
            assert await status_of(stack, "o", "dead")
            answer = await client.post(urls[1], json={"events": [{"id": "o"}]})
        assert answer.json()["results"][0]["outcome"] == "stored"
        assert await rows(stack, "select id, count from public.effects") == [("o", 1)]
        await drained(stack)


async def status_of(stack: Stack, id: str, status: str) -> bool:
    """Whether the event has this status."""
    return await rows(stack, f"select status from oncecast.events where id = '{id}'") == [(status,)]
