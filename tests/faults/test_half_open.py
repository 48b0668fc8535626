"""FAULTS 9, 13, 39: a link that carries nothing any more and says nothing of it is found by deadlines and probes."""

from __future__ import annotations

from pathlib import Path

from oncecast import Event, Publisher
from oncecast.chaos.system import System, running
from tests.support.stacks import rows, until


async def all_are_stored(system: System, count: int) -> bool:
    """Whether so many rows are there."""
    return await rows(system.stack, "select count(*) from chaos.events where status = 'stored'") == [(count,)]


async def test_a_listener_whose_postgresql_stands_still_hands_its_events_to_one_that_reaches_it(
    tmp_path: Path,
) -> None:
    """9, 13. Long before its statements run into their own deadlines of half a minute, three times over."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with Publisher(system.stack.publish_url) as publisher:
            await publisher.publish_many([Event.new("tick", id=f"before-{n}") for n in range(100)])
            await until(lambda: all_are_stored(system, 100))
            system.links["listener-a>postgres"].hurt("freeze", "up")
            for n in range(200):
                await publisher.publish(Event.new("tick", id=f"tick-{n}"))
        await until(lambda: all_are_stored(system, 300), within_s=30)


async def test_a_listener_finds_a_producer_that_is_only_half_there_and_reads_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    """39. And the other listeners are not held up by it."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with Publisher(system.stack.publish_url) as publisher:
            system.links["listener-a>producer"].hurt("freeze", "down")
            await publisher.publish_many([Event.new("tick", id=f"tick-{n}") for n in range(200)])
            await until(lambda: all_are_stored(system, 200), within_s=15)
            log = system.stack.folder("listener-a") / "output.log"

            async def is_found() -> bool:
                return "Disconnected from producer" in log.read_text()

            await until(is_found, within_s=40)
            system.links["listener-a>producer"].heal()
            await system.stack.kill("listener-b")
            await publisher.publish_many([Event.new("tick", id=f"after-{n}") for n in range(10)])
        await until(lambda: all_are_stored(system, 210), within_s=60)
