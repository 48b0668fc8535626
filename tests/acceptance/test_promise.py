"""Nothing lost, nothing twice, while real processes stop, vanish and return. Real PostgreSQL, Valkey, sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import counting
from tests.support.judge import Publications, acknowledged, judge, publishing
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.counting:app", "app_dir": Path(__file__).parents[2]}
EARTHQUAKES = Path(__file__).parents[2] / "examples" / "earthquakes.ndjson"
DRAIN_TIMEOUT_S = 10.0
OUTAGE_S = 30.0
"""Longer than all tries of the database: the system must pause, and come back."""


@pytest.fixture
async def stack(stack_of: StackOf):  # type: ignore[no-untyped-def]
    async with stack_of(**APP, environment={"RECONNECT_MAX": "2s"}) as running:
        async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        yield running


async def stop_and_start(stack: Stack, publications: Publications, name: str, outage_s: float) -> None:
    await acknowledged(publications, 200)
    await stack.stop(name)
    await asyncio.sleep(outage_s)
    await stack.start(name)
    await acknowledged(publications, 200)


async def test_postgresql_is_stopped_for_30_s_while_events_are_sent(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "postgres", OUTAGE_S)
    await judge(stack, publications)


async def test_valkey_is_stopped_and_comes_back_empty_while_events_are_sent(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "valkey", 5.0)
    await judge(stack, publications)


async def test_the_producer_is_stopped_and_started_while_events_are_sent(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "producer", 3.0)
    await judge(stack, publications)


async def test_the_producer_is_killed_and_started_while_events_are_sent(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await stack.kill("producer")
        await stack.start("producer")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_a_listener_is_killed_while_events_are_sent_and_the_other_rescues_what_it_held(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await stack.kill("listener-a")
        await acknowledged(publications, 400)
        await stack.start("listener-a")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_a_listener_is_stopped_while_events_are_sent_and_hands_back_what_it_held(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "listener-a", 1.0)
        assert stack.processes["listener-a"].pid is not None
    await judge(stack, publications)


async def test_a_listener_is_frozen_longer_than_others_wait_for_it_and_thawed(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        stack.pause("listener-a")
        await asyncio.sleep(8.0)
        stack.resume("listener-a")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_a_listener_that_fell_far_behind_its_group_catches_up_and_can_take_over(stack_of: StackOf) -> None:
    async with stack_of(environment={"WINDOW_BYTES": "256KiB"}) as stack, Publisher(stack.publish_url) as publisher:
        stack.pause("listener-b")
        await publisher.publish_many([Event.new("tick", "x" * 100) for _ in range(20_000)])

        async def all_saved() -> bool:
            return await rows(stack, 'select "offset" from oncecast.cursors') == [(20_000,)]

        await until(all_saved)
        stack.resume("listener-b")
        await drained(stack)
        await stack.kill("listener-a")
        await publisher.publish_many([Event.new("tick", "x" * 100) for _ in range(100)])
        await drained(stack, within_s=20)
        assert await rows(stack, "select count(*) from oncecast.events") == [(20_100,)]


async def test_a_listener_told_to_stop_under_a_backlog_hands_it_over_at_once(stack_of: StackOf) -> None:
    async with stack_of(**APP, environment={"HANDLER_CONCURRENCY": "2"}) as stack:
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute(counting.TABLES)
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish_many([Event.new("slow", {"seconds": 0.2}, id=f"s{n}") for n in range(60)])

            async def begun() -> bool:
                return bool(await rows(stack, "select 1 from oncecast.events limit 1"))

            await until(begun)
            began_s = time.monotonic()
            await stack.stop("listener-a")
            took_s = time.monotonic() - began_s
        assert stack.processes["listener-a"].returncode == 0
        assert took_s < DRAIN_TIMEOUT_S / 2
        await drained(stack)
        assert await rows(stack, "select count(*), min(count), max(count) from public.effects") == [(60, 1, 1)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="who PostgreSQL's sessions are is asked of Linux")
async def test_postgresql_stands_still_with_all_its_sessions_while_events_are_sent(stack: Stack) -> None:
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        postmaster = stack.processes["postgres"].pid
        sessions = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (*sessions, postmaster):
            os.kill(int(pid), signal.SIGSTOP)
        await asyncio.sleep(10.0)
        for pid in (postmaster, *sessions):
            os.kill(int(pid), signal.SIGCONT)
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_all_real_earthquakes_arrive_though_a_listener_is_killed_while_they_are_sent(stack: Stack) -> None:
    lines = EARTHQUAKES.read_bytes().splitlines()

    async def in_portions():  # type: ignore[no-untyped-def]
        for n in range(0, len(lines), 100):
            if n == 500:
                await stack.kill("listener-a")
            yield lines[n : n + 100], range(n + 1, n + 101)

    async with Publisher(stack.publish_url) as publisher:
        assert await publisher.publish_json(in_portions()) == 1_707
    await drained(stack)
    assert await rows(stack, "select status, count(*) from oncecast.events group by 1") == [("stored", 1_707)]


async def test_an_event_whose_handler_swallows_an_sql_error_is_never_stored(stack: Stack) -> None:
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("swallows", id="s"))

        async def dead() -> object:
            return await rows(stack, "select status from oncecast.events where id = 's'")

        assert await until(dead) == [("dead",)]
    assert await rows(stack, "select count from public.effects where id = 's'") == []
    ((attempts, error),) = await rows(stack, "select attempts, error from oncecast.dead_letters")
    assert (attempts, "swallowed an SQL error" in error) == (3, True)


async def test_a_rejected_event_is_dead_at_once_and_a_failing_one_after_its_attempts(stack: Stack) -> None:
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("rejected", id="r"), Event.new("fails", id="f"), Event.new("tick", id="t")]
        )

        async def ended() -> object:
            found = await rows(stack, "select id, status, attempts from oncecast.events order by id")
            return found if len(found) == 3 else None

        assert await until(ended) == [("f", "dead", 3), ("r", "dead", 1), ("t", "stored", 1)]
    assert await rows(stack, "select * from public.effects") == []


async def test_the_line_of_a_dead_letter_follows_its_row_even_over_a_restart(stack: Stack) -> None:
    await stack.stop("listener-b")
    file = stack.data / "listener-a" / "failed_events.log"

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("rejected", {"n": 1}, id="r"))

    async def filed() -> object:
        return await rows(stack, "select 1 from oncecast.dead_letters where filed_at is not null")

    await until(filed)
    (line,) = lines()
    assert (line["instance"], line["error"], line["attempts"]) == ("listener-a", "Reject: out of stock", 1)
    assert (line["event"]["id"], line["event"]["data"]) == ("r", {"n": 1})
    assert line["timestamp"].endswith("Z")
    assert file.stat().st_mode & 0o077 == 0
    await stack.kill("listener-a")
    async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
        await connection.execute("update oncecast.dead_letters set filed_at = null")
    file.write_bytes(file.read_bytes()[:-20])  # killed while it wrote the line
    await stack.start("listener-a")
    await until(filed)
    *torn, last = file.read_text().splitlines()
    assert len(torn) == 1
    assert json.loads(last) == line


async def test_a_listener_that_is_told_to_stop_finishes_what_it_began_and_exits_with_0(stack: Stack) -> None:
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": 2}, id="slow"))

    async def begun() -> object:
        return await rows(
            stack, "select 1 from pg_stat_activity where state = 'idle in transaction' and query like '%effects%'"
        )

    await until(begun)
    await stack.stop("listener-a")
    assert stack.processes["listener-a"].returncode == 0
    assert await rows(stack, "select id, status from oncecast.events") == [("slow", "stored")]


async def test_what_a_killed_listener_held_is_rescued_within_some_seconds_and_its_effect_counts_once(
    stack: Stack,
) -> None:
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": 3}, id="slow"))

    async def begun() -> object:
        return await rows(
            stack, "select 1 from pg_stat_activity where state = 'idle in transaction' and query like '%effects%'"
        )

    await until(begun)
    await stack.start("listener-b")
    await stack.kill("listener-a")

    async def stored() -> object:
        return await rows(stack, "select listener from oncecast.events where status = 'stored'")

    assert await until(stored, within_s=6.0 + 3.0) == [("listener-b",)]
    assert await rows(stack, "select count from public.effects") == [(1,)]


@pytest.mark.parametrize("further", [1, 0], ids=["as more arrives", "though nothing more arrives"])
async def test_what_postgresql_lost_to_an_older_state_is_processed_again_though_marks_say_it_has_ended(
    stack: Stack, further: int
) -> None:
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
