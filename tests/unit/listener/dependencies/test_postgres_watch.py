"""An outage of PostgreSQL is detected in time, reported once, and spends no attempt."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.telemetry import DependencyLost, DependencyReady, TelemetryEvent
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.listener.dependencies.postgres_watch import TURN_S, DatabaseWatch
from tests.support.arrivals import arrivals
from tests.support.clock import ManualClock


class Postgres:
    """Answers probes as its `error` says, or not at all while it `hangs`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.probes: list[bool] = []

    async def probe(self, *, writes: bool = True) -> None:
        self.probes.append(writes)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


class Watched:
    """A watch, its gate, and what they report. The clock stands still unless it is moved."""

    def __init__(self, turn_s: float = TURN_S) -> None:
        self.clock = ManualClock()
        self.telemetry_events: list[TelemetryEvent] = []
        self.postgres = Postgres()
        store: Any = self.postgres
        self.gate = DatabaseGate(
            store, self.clock, probe_interval_s=1.0, paused=lambda: None, record=self.telemetry_events.append
        )
        self.watch = DatabaseWatch(store, self.gate, self.clock, turn_s=turn_s)

    async def check(self, after_s: float = 1.0) -> None:
        self.clock.now_s += after_s
        await self.watch.check()


@pytest.fixture
def it() -> Watched:
    return Watched()


async def test_an_outage_and_its_end_are_each_reported_once_while_work_continues(it: Watched) -> None:
    it.postgres.error = Unavailable("PostgreSQL: refused")
    for _ in range(4):
        await it.check()
    assert it.gate.fault == "PostgreSQL: refused"
    assert it.gate.is_up, "tries go on as they do"
    it.postgres.error = None
    await it.check()
    await it.check()
    assert not it.gate.fault
    assert it.telemetry_events == [DependencyLost("database", "PostgreSQL: refused"), DependencyReady("database")]


async def test_an_interruption_of_less_than_a_second_is_no_outage(it: Watched) -> None:
    it.postgres.error = Unavailable("PostgreSQL: refused")
    await it.check()
    await it.check(after_s=0.5)
    it.postgres.error = None
    await it.check()
    assert it.telemetry_events == []


async def test_a_probe_that_hangs_is_an_error() -> None:
    it = Watched(turn_s=0.001)
    it.postgres.hangs = True
    await it.check()
    await it.check(after_s=0.1)
    await it.check()
    assert str(it.gate.fault).startswith("PostgreSQL: no answer within")


async def test_a_handler_that_blocks_the_event_loop_is_no_outage() -> None:
    it = Watched(turn_s=0.02)
    blocked: list[bool] = []

    async def probe(*, writes: bool = True) -> None:
        await asyncio.sleep(0.01)
        blocked.append(writes)

    it.postgres.probe = probe  # type: ignore[method-assign]
    it.clock.now_s += 1
    looking = asyncio.create_task(it.watch.check())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.5)
    await looking
    assert blocked == [False]
    assert it.watch._failing_since_s is None


async def test_a_lock_on_the_probes_table_is_an_answer(it: Watched) -> None:
    it.postgres.error = RowLocked("lock timeout")
    for _ in range(3):
        await it.check()
    assert it.telemetry_events == []


async def test_no_ping_is_sent_while_attempts_succeed(it: Watched) -> None:
    (arrival,) = arrivals(1)
    for _ in range(3):
        it.gate.asked(arrival)
        it.gate.answered(arrival)
        await it.check(after_s=0.3)
    assert it.postgres.probes == []


async def test_pings_write_only_while_an_attempt_waits(it: Watched) -> None:
    await it.check()
    it.gate.asked(arrivals(1)[0])
    await it.check()
    assert it.postgres.probes == [False, True]


async def test_attempts_that_all_fail_are_an_outage_though_probes_succeed(it: Watched) -> None:
    first, second = arrivals(2)
    for arrival in (first, second):
        it.gate.asked(arrival)
        it.gate.answered(arrival, Unavailable("PostgreSQL: No space left on device"))
        await it.check(after_s=0.6)
    assert it.telemetry_events == [DependencyLost("database", "PostgreSQL: No space left on device")]
    it.gate.asked(first)
    it.gate.answered(first)
    await it.check(after_s=0.1)
    assert it.telemetry_events[1:] == [DependencyReady("database")]


async def test_attempts_that_failed_in_one_moment_are_no_outage_while_pings_that_write_succeed(it: Watched) -> None:
    pair = arrivals(2)
    for arrival in pair:
        it.gate.asked(arrival)
    for arrival in pair:
        it.gate.answered(arrival, Unavailable("PostgreSQL: terminating connection due to administrator command"))
    for _ in range(4):
        await it.check()
    assert (it.telemetry_events, it.postgres.probes) == ([], [True] * 4)


async def test_an_attempt_that_failed_has_the_outage_found_by_pings_before_its_retry(it: Watched) -> None:
    (arrival,) = arrivals(1)
    it.gate.asked(arrival)
    it.gate.answered(arrival, Unavailable("PostgreSQL: connection reset"))
    it.postgres.error = Unavailable("PostgreSQL: refused")
    await it.check(after_s=0.5)
    await it.check()
    assert it.telemetry_events == [DependencyLost("database", "PostgreSQL: refused")]


@pytest.mark.parametrize("answer", [None, ValueError("the handler's"), RowLocked("lock timeout")])
async def test_any_answer_except_unavailable_ends_the_failures_before_it(
    it: Watched, answer: Exception | None
) -> None:
    for error in (Unavailable("PostgreSQL: reset"), answer, Unavailable("PostgreSQL: reset")):
        (arrival,) = arrivals(1)
        it.gate.asked(arrival)
        it.gate.answered(arrival, error)
        await it.check(after_s=0.7)
    assert it.telemetry_events == []


async def test_a_cancelled_attempt_is_no_answer(it: Watched) -> None:
    for error in (Unavailable("PostgreSQL: No space"), asyncio.CancelledError(), Unavailable("PostgreSQL: No space")):
        (arrival,) = arrivals(1)
        it.gate.asked(arrival)
        it.gate.answered(arrival, error)
        await it.check(after_s=0.7)
    assert it.telemetry_events == [DependencyLost("database", "PostgreSQL: No space")]


async def test_a_pause_after_a_reported_outage_is_not_reported_again(it: Watched) -> None:
    it.gate.report_down(Unavailable("PostgreSQL: refused"))
    it.gate.lost(Unavailable("PostgreSQL: couldn't get a connection"))
    it.gate.report_up()
    assert it.telemetry_events == [DependencyLost("database", "PostgreSQL: refused")]
    assert it.gate.fault is not None, "a probe that writes has the last word"
