"""Replays while the process stops: running ones may finish, no new one starts, none outlives the process."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from oncecast import App, Event
from oncecast.app.isolation import RunOptions
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.errors import TransactionConflict
from oncecast.core.telemetry import TelemetryEvent
from oncecast.listener.dead_letters.replay import Replay, Replays
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.testing.memory import MemoryDeadLetters, MemoryEvents, MemoryPostgres
from tests.support.places import arrival

SOURCE = "/oncecast"
OPTIONS = RunOptions(clock=SYSTEM_CLOCK, timeout_s=60.0)


class Harness:
    """Dead letters `id-1` and `id-2`, whose handler waits until it may end."""

    def __init__(self) -> None:
        self.server = MemoryPostgres()
        self.telemetry_events: list[TelemetryEvent] = []
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        app = App()
        app.on("tick")(self._handle)
        dead_letters = MemoryDeadLetters(self.server, instance="a", token="a")
        self.replays = Replays(
            app, dead_letters, ExclusiveRun(), OPTIONS, concurrency=1, record=self.telemetry_events.append
        )

    async def _handle(self, event: Event) -> None:
        self.began.set()
        await self.may_end.wait()

    async def dead_letter(self) -> None:
        store = MemoryEvents(self.server, instance="a", token="a")
        for offset in (1, 2):
            await store.dead_letter(arrival(offset), ValueError("no"))

    def statuses(self) -> list[str]:
        return [row.status for row in self.server.tables.rows.values()]


@pytest.fixture
async def at() -> Harness:
    harness = Harness()
    await harness.dead_letter()
    return harness


async def test_a_drain_waits_for_the_running_replay_and_starts_no_other(at: Harness) -> None:
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        first = group.create_task(at.replays.replay(SOURCE, "id-1"))
        second = group.create_task(at.replays.replay(SOURCE, "id-2"))
        await at.began.wait()
        drain = group.create_task(at.replays.drain(within_s=10.0))
        await asyncio.sleep(0)
        assert await at.replays.replay(SOURCE, "id-2") == (Replay.UNKNOWN, "this listener is stopping")
        assert not drain.done()
        at.may_end.set()
        await drain
    assert first.result().outcome is Replay.STORED
    assert second.result().error == "this listener is stopping"
    assert at.statuses() == ["stored", "dead"]


async def test_a_replay_that_exceeds_the_drain_timeout_is_cancelled_and_changes_nothing(at: Harness) -> None:
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        replay = group.create_task(at.replays.replay(SOURCE, "id-1"))
        await at.began.wait()
        await at.replays.drain(within_s=0.01)
    assert replay.result().outcome is Replay.UNKNOWN
    assert "cut short" in (replay.result().error or "")
    assert (at.statuses(), at.telemetry_events) == (["dead", "dead"], [])


async def test_a_replay_continues_without_its_caller_and_the_drain_waits_for_it(at: Harness) -> None:
    """As the feed does that an operator's question came by."""
    async with asyncio.timeout(120):
        asked = asyncio.create_task(at.replays.replay(SOURCE, "id-1"))
        await at.began.wait()
        asked.cancel()
        await asyncio.wait([asked])
        at.may_end.set()
        await at.replays.drain(within_s=10.0)
    assert at.statuses() == ["stored", "dead"]


async def test_a_replay_whose_handler_finds_no_free_thread_changes_nothing() -> None:
    at, app = Harness(), App()
    await at.dead_letter()

    @app.on("tick")
    def handler() -> None: ...

    dead_letters = MemoryDeadLetters(at.server, instance="a", token="a")
    replays = Replays(
        app,
        dead_letters,
        ExclusiveRun(),
        replace(OPTIONS, abandoned_threads_max=0),
        concurrency=1,
        record=at.telemetry_events.append,
    )
    result = await replays.replay(SOURCE, "id-1")
    assert (result.outcome, at.telemetry_events) == (Replay.UNKNOWN, [])


@pytest.mark.parametrize(("ordered_by", "at_a_time"), [(None, 2), ("subject", 1)])
async def test_replays_run_side_by_side_unless_the_application_has_an_order(
    ordered_by: str | None, at_a_time: int
) -> None:
    at, app = Harness(), App()
    await at.dead_letter()
    running, most = 0, 0

    @app.on("tick", ordered_by=ordered_by)
    async def handler(_event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    dead_letters = MemoryDeadLetters(at.server, instance="a", token="a")
    replays = Replays(app, dead_letters, ExclusiveRun(), OPTIONS, concurrency=8, record=at.telemetry_events.append)
    results = await asyncio.gather(*(replays.replay(SOURCE, id_) for id_ in ("id-1", "id-2")))
    assert [result.outcome for result in results] == [Replay.STORED, Replay.STORED]
    assert most == at_a_time


async def test_a_replay_whose_transaction_conflicts_is_attempted_again() -> None:
    at, tries = Harness(), []
    await at.dead_letter()

    class Conflicting(MemoryDeadLetters):
        async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
            tries.append(id)
            if len(tries) < 3:
                raise TransactionConflict("deadlock detected")
            return await super().replay(source, id, work)

    store = Conflicting(at.server, instance="a", token="a")
    replays = Replays(App(), store, ExclusiveRun(), OPTIONS, concurrency=8, record=at.telemetry_events.append)
    assert (await replays.replay(SOURCE, "id-1")).outcome is Replay.STORED
    assert tries == ["id-1"] * 3
