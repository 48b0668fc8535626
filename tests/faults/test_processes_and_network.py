"""Processes are stopped; links are lost or half open.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg

from oncecast import Event, Publisher
from oncecast.chaos.system import System, running
from oncecast.embedded import Stack
from tests.support import counting
from tests.support.counting_stack import APP, stop_and_start, until_a_handler_writes
from tests.support.judge import judge, publishing
from tests.support.stacks import StackOf, drained, rows, until

DRAIN_TIMEOUT_S = 10.0


async def test_a_listener_stopped_under_load_releases_its_leases(stack: Stack) -> None:
    """36."""
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "listener-a", 1.0)
        assert stack.processes["listener-a"].pid is not None
    await judge(stack, publications)


async def test_a_listener_stopped_under_a_backlog_hands_it_over_at_once(stack_of: StackOf) -> None:
    """36."""
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


async def test_a_stopping_listener_finishes_events_in_flight_and_exits_with_0(stack: Stack) -> None:
    """36."""
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": 2}, id="slow"))
    await until_a_handler_writes(stack)
    await stack.stop("listener-a")
    assert stack.processes["listener-a"].returncode == 0
    assert await rows(stack, "select id, status from oncecast.events") == [("slow", "stored")]


async def test_the_producer_is_stopped_and_started_while_events_are_sent(stack: Stack) -> None:
    """38."""
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "producer", 3.0)
    await judge(stack, publications)


async def test_a_listener_that_fell_far_behind_its_group_catches_up_and_can_take_over(stack_of: StackOf) -> None:
    """34, 40."""
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


async def test_a_second_sigterm_forces_the_end(stack: Stack) -> None:
    """36."""
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("slow", {"seconds": 8}, id="slow"))
    await until_a_handler_writes(stack)
    listener, log = stack.processes["listener-a"], stack.folder("listener-a") / "output.log"
    pid = listener.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)

    async def is_stopping() -> bool:
        return "Stopping" in log.read_text()

    await until(is_stopping)
    began_s = time.monotonic()
    os.kill(pid, signal.SIGTERM)

    async def has_ended() -> bool:
        return listener.pid is None

    await until(has_ended)
    assert time.monotonic() - began_s < 3
    assert listener.returncode == -signal.SIGTERM


async def all_are_stored(system: System, count: int) -> bool:
    """Whether `count` rows are stored."""
    return await rows(system.stack, "select count(*) from chaos.events where status = 'stored'") == [(count,)]


async def test_a_listener_with_a_frozen_postgresql_releases_its_events_to_one_that_reaches_it(
    tmp_path: Path,
) -> None:
    """9, 13. Long before three statement timeouts of half a minute."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with Publisher(system.stack.publish_url) as publisher:
            await publisher.publish_many([Event.new("tick", id=f"before-{n}") for n in range(100)])
            await until(lambda: all_are_stored(system, 100))
            system.links["listener-a>postgres"].inject("freeze", "up")
            for n in range(200):
                await publisher.publish(Event.new("tick", id=f"tick-{n}"))
        await until(lambda: all_are_stored(system, 300), within_s=30)


async def test_one_listener_reaches_postgresql_but_not_redis_and_another_the_reverse(tmp_path: Path) -> None:
    """9. The listener that reaches PostgreSQL ends everything, including what the other had leased."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with Publisher(system.stack.publish_url) as publisher:
            system.links["listener-a>valkey"].inject("cut", "both")
            system.links["listener-b>postgres"].inject("cut", "both")
            for n in range(100):
                await publisher.publish(Event.new("tick", id=f"tick-{n}"))
            await until(lambda: all_are_stored(system, 100), within_s=30)
            for link in system.links.values():
                link.clear()
            await publisher.publish(Event.new("tick", id="after"))
        await drained(system.stack)
        assert await rows(system.stack, "select status, count(*) from chaos.events group by 1") == [("stored", 101)]


async def test_a_listener_detects_a_half_open_producer_and_resumes_when_it_is_back(
    tmp_path: Path,
) -> None:
    """39. The other listeners are not delayed."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with Publisher(system.stack.publish_url) as publisher:
            system.links["listener-a>producer"].inject("freeze", "down")
            await publisher.publish_many([Event.new("tick", id=f"tick-{n}") for n in range(200)])
            await until(lambda: all_are_stored(system, 200), within_s=15)
            log = system.stack.folder("listener-a") / "output.log"

            async def is_found() -> bool:
                return "Disconnected from producer" in log.read_text()

            await until(is_found, within_s=40)
            system.links["listener-a>producer"].clear()
            await system.stack.kill("listener-b")
            await publisher.publish_many([Event.new("tick", id=f"after-{n}") for n in range(10)])
        await until(lambda: all_are_stored(system, 210), within_s=60)
