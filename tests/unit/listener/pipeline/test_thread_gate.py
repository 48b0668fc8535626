"""With too many timed-out threads, events wait, and spend no attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import Cost, NoThread, classify
from oncecast.core.event import Arrival
from oncecast.core.telemetry import HandlersBlocked, TelemetryEvent
from oncecast.event import Event
from oncecast.listener.pipeline.claim import WorkItem
from oncecast.listener.pipeline.thread_gate import WAIT_S, ThreadGate
from tests.support.arrivals import arrivals
from tests.unit.listener.pipeline.test_attempt import Harness

OPTIONS = RunOptions(clock=SYSTEM_CLOCK, timeout_s=0.001)
ABANDONED_MAX = OPTIONS.abandoned_threads_max


class Gate:
    """A thread gate before an attempt station, and what became of what came to it."""

    def __init__(self) -> None:
        self.app = App()
        self.may_end = threading.Event()
        self.app.on("stuck", "sync")(self._wait)
        self.app.on("async")(self._do_nothing)
        self.at = Harness(self.app)
        self.handed_back: list[str] = []
        self.telemetry_events: list[TelemetryEvent] = []
        self.attempt = ThreadGate(
            self.app,
            self,  # type: ignore[arg-type]
            OPTIONS,
            attempt=self.at.station.attempt,
            come_back=lambda work, delay_s: self.at.back.append(([x.id for x in work], delay_s)),
            record=self.telemetry_events.append,
        ).attempt

    def _wait(self) -> None:
        self.may_end.wait()

    async def _do_nothing(self) -> None: ...

    async def release(self, batch: Sequence[Arrival]) -> int:
        self.handed_back.extend(arrival.id for arrival in batch)
        return len(batch)

    async def abandon(self, count: int) -> None:
        """Let `count` handlers exceed their time and keep running."""
        for _ in range(count):
            (arrival,) = arriving("stuck")
            with pytest.raises(TimeoutError):
                await self.app.handle([arrival], None, OPTIONS)  # type: ignore[arg-type]


def arriving(type: str, count: int = 1) -> WorkItem:
    found = arrivals(count, type=type)
    for arrival in found:
        arrival.raw = msgspec.Raw(Event.new(type, id=arrival.id, source=arrival.source).to_json())
    return found


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.may_end.set()


async def test_with_a_hundred_timed_out_threads_a_healthy_event_waits_without_spending_an_attempt(gate: Gate) -> None:
    await gate.abandon(ABANDONED_MAX)
    (arrival,) = arriving("sync")
    for _ in range(5):
        await gate.attempt([arrival])
    assert gate.at.back == [(["1"], WAIT_S)] * 5
    assert (arrival.attempts, arrival.terminal_error, gate.at.store.dead_lettered) == (0, None, [])
    assert gate.handed_back == ["1"] * 5  # another listener may have room
    (telemetry,) = gate.telemetry_events
    assert isinstance(telemetry, HandlersBlocked)


async def test_handlers_that_need_no_thread_go_on_meanwhile(gate: Gate) -> None:
    await gate.abandon(ABANDONED_MAX)
    await gate.attempt(arriving("async"))
    assert (gate.at.settled, gate.at.back) == (["1"], [])


async def test_waiting_events_continue_when_threads_end_and_the_next_shortage_is_reported(gate: Gate) -> None:
    await gate.abandon(ABANDONED_MAX)
    await gate.attempt(arriving("sync"))
    gate.may_end.set()
    async with asyncio.timeout(120):
        while gate.at.settled != ["1"]:
            await gate.attempt(arriving("sync"))
            await asyncio.sleep(0)
    gate.may_end.clear()
    await gate.abandon(ABANDONED_MAX)
    await gate.attempt(arriving("sync"))
    assert len(gate.telemetry_events) == 2


async def test_dead_lettering_needs_no_thread(gate: Gate) -> None:
    await gate.abandon(ABANDONED_MAX)
    (arrival,) = arriving("sync")
    arrival.terminal_error = ValueError("no")
    await gate.attempt([arrival])
    assert [id_ for id_, _ in gate.at.store.dead_lettered] == ["1"]


async def test_an_attempt_that_finds_no_thread_after_all_is_not_counted_either(gate: Gate) -> None:
    await gate.abandon(ABANDONED_MAX)
    (arrival,) = arriving("sync")
    await gate.at.station.attempt([arrival])
    assert (arrival.attempts, gate.at.back) == (0, [(["1"], 0.5)])
    assert classify(NoThread()) is Cost.WAIT
