"""Leases and Redis: a lease owner crashes, freezes or loses its leases, and each event still ends once.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import combinations_with_replacement

import httpx2
import psycopg
import pytest
import redis.asyncio as redis

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from oncecast.embedded.valkey import MAXMEMORY
from tests.support.counting_stack import stop_and_start, until_a_handler_writes
from tests.support.judge import acknowledged, judge, publishing
from tests.support.stacks import drained, rows, until


async def test_events_of_a_killed_listener_are_taken_over_within_seconds_with_one_effect(
    stack: Stack,
) -> None:
    """1. At the worst point."""
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": 3}, id="slow"))
    killed = await until_a_handler_writes(stack)
    await stack.kill(killed)

    async def stored() -> object:
        return await rows(stack, "select listener from oncecast.events where status = 'stored'")

    ((listener,),) = await until(stored, within_s=6.0 + 3.0)
    assert listener != killed
    assert await rows(stack, "select count from public.effects") == [(1,)]


async def test_a_listener_is_killed_under_load_and_the_other_takes_over_its_events(stack: Stack) -> None:
    """1, 7."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await stack.kill("listener-a")
        await acknowledged(publications, 400)
        await stack.start("listener-a")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_a_listener_is_frozen_longer_than_others_wait_for_it_and_thawed(stack: Stack) -> None:
    """2, 7."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        stack.pause("listener-a")
        await asyncio.sleep(8.0)
        stack.resume("listener-a")
        await acknowledged(publications, 200)
    await judge(stack, publications)


@pytest.mark.parametrize("further", [1, 0], ids=["as more arrives", "though nothing more arrives"])
async def test_rows_lost_to_an_older_state_are_processed_again_despite_done_markers(
    stack: Stack, further: int
) -> None:
    """6."""
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("counted", id=f"e{n}") for n in range(60)])
        await drained(stack)

        async def saved() -> bool:
            return await rows(stack, 'select "offset" from oncecast.cursors') == [(60,)]

        await until(saved)
        async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
            await connection.execute('delete from oncecast.events where "offset" > 20')
            await connection.execute("delete from public.effects where substr(id, 2)::int >= 20")
            await connection.execute('update oncecast.cursors set "offset" = 20')
        await publisher.publish_many([Event.new("counted", id=f"e{60 + n}") for n in range(further)])

        async def restored() -> bool:
            return await rows(stack, "select count(*), min(count), max(count) from public.effects") == [
                (60 + further, 1, 1)
            ]

        await until(restored, within_s=15)
    await drained(stack)
    assert await rows(stack, "select count(*) from oncecast.events where status = 'stored'") == [(60 + further,)]


async def test_a_listener_restarted_at_once_under_its_name_is_taken_over_as_soon(stack: Stack) -> None:
    """1. Its leases belong to a dead process, although another has its name now."""
    await hold_open(stack, "held", seconds=3)
    await stack.kill("listener-a")
    await stack.start("listener-a")
    await until(lambda: is_stored(stack, "held"), within_s=6.0 + 3.0)
    assert await rows(stack, "select count from public.effects") == [(1,)]


async def test_a_takeover_ends_the_sessions_of_a_lease_owner_frozen_in_a_transaction(stack: Stack) -> None:
    """3. A listener that waits for its lock dead-letters nothing, and its late commit changes nothing."""
    await hold_open(stack, "held", seconds=1)
    stack.pause("listener-a")
    await stack.start("listener-b")
    await until(lambda: is_stored(stack, "held"), within_s=15)
    stack.resume("listener-a")
    await drained(stack)
    assert await rows(stack, "select listener, status from oncecast.events") == [("listener-b", "stored")]
    assert await rows(stack, "select count from public.effects") == [(1,)]
    assert await rows(stack, "select count(*) from oncecast.dead_letters") == [(0,)]


async def hold_open(stack: Stack, id: str, *, seconds: float) -> None:
    """Have listener-a alone run an event whose handler has written and not yet returned."""
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": seconds}, id=id))
    await until_a_handler_writes(stack)


async def is_stored(stack: Stack, id: str) -> bool:
    return await rows(stack, f"select 1 from oncecast.events where id = '{id}' and status = 'stored'") == [(1,)]


Fault = Callable[[Stack], Awaitable[None]]


async def kill_and_start(stack: Stack) -> None:
    await stack.kill("valkey")
    await stack.start("valkey")


async def freeze(stack: Stack) -> None:
    stack.pause("valkey")
    await asyncio.sleep(4)
    stack.resume("valkey")


def reported(*commands: Callable[[redis.Redis], Awaitable[object]]) -> Fault:
    """Return a fault: an outage of two seconds between two commands."""

    async def tell(stack: Stack) -> None:
        client = redis.Redis.from_url(stack.redis_url)
        for command in commands:
            await command(client)
            await asyncio.sleep(2)
        await client.aclose()

    return tell


async def change_password(stack: Stack) -> None:
    """Change the password, so that clients with the old one are refused."""
    client = redis.Redis.from_url(stack.redis_url)
    await client.config_set("requirepass", "another")
    await client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(2)
    await client.aclose()


REDIS_FAULTS: dict[str, Fault] = {
    "killed, and empty when it is back": kill_and_start,
    "emptied": reported(lambda valkey: valkey.flushall()),
    "frozen": freeze,
    "out of memory": reported(
        lambda valkey: valkey.config_set("maxmemory", "1"), lambda valkey: valkey.config_set("maxmemory", MAXMEMORY)
    ),
    "read-only": reported(
        lambda valkey: valkey.replicaof("127.0.0.1", "1"), lambda valkey: valkey.replicaof("no", "one")
    ),
    "with another password for good": change_password,
}


@pytest.mark.parametrize("fault", REDIS_FAULTS.values(), ids=REDIS_FAULTS.keys())
async def test_everything_is_exact_whatever_becomes_of_redis(stack: Stack, fault: Fault) -> None:
    """4."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await fault(stack)
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_everything_is_exact_while_redis_is_away_for_seconds(stack: Stack) -> None:
    """4."""
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "valkey", 5.0)
    await judge(stack, publications)


async def test_a_foreign_value_under_the_key_of_a_range_ends_no_listener(stack: Stack) -> None:
    pids = {name: stack.processes[name].pid for name in stack.listener_urls}
    async with httpx2.AsyncClient(base_url=stack.publish_url) as producer:
        epoch = (await producer.get("/api/journal")).json()["epoch"]
    async with redis.Redis.from_url(stack.redis_url) as client:
        for first, last in combinations_with_replacement((1, 2, 3), 2):  # however the events come in frames
            key = f"oncecast:{{oncecast}}:r:{epoch}:{first}-{last}"
            await (client.set(key, b"") if first < last else client.rpush(key, b"x"))
    events = [Event.new("counted", id=id_, source="/s") for id_ in ("foreign", "list", "own")]
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(events)
        await drained(stack)
    assert await rows(stack, "select count(*), min(count), max(count) from public.effects") == [(3, 1, 1)]
    assert {name: stack.processes[name].pid for name in stack.listener_urls} == pids
    log = "".join((stack.folder(name) / "output.log").read_text() for name in pids)
    assert "keys in Redis had values that are not Oncecast's" in log
    assert "Redis unavailable" not in log
