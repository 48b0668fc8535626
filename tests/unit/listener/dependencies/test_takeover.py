"""Events leased elsewhere are watched until they have ended, are free, or their lease owner is dead."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.leases import Claims
from oncecast.core.ports import Sessions
from oncecast.core.telemetry import TakenOver, TelemetryEvent
from oncecast.listener.dependencies.takeover import Takeovers
from tests.support.arrivals import arrivals
from tests.support.clock import ManualClock


class Gate:
    """A scripted LeaseGate."""

    def __init__(self) -> None:
        self.answer = Claims()
        self.counter: int | None = 7
        self.is_up = True
        self.freed: list[tuple[list[str], str]] = []
        self.charged: list[bool] = []

    async def peek(self, batch: Sequence[Arrival]) -> Claims:
        return self.answer

    async def counters(self, tokens: Sequence[str]) -> dict[str, int | None] | None:
        return dict.fromkeys(tokens, self.counter) if self.is_up else None

    async def take_over(self, batch: Sequence[Arrival], holder: str, *, died: bool) -> None:
        self.freed.append(([x.id for x in batch], holder))
        self.charged.append(died)


class Store:
    def __init__(self) -> None:
        self.is_up = True
        self.ended: list[str] = []
        self.sessions = Sessions.NONE

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        if not self.is_up:
            raise Unavailable("x")
        self.ended.append(token)
        return self.sessions


class Harness:
    def __init__(self) -> None:
        self.gate, self.store = Gate(), Store()
        self.telemetry_events: list[TelemetryEvent] = []
        self.over: list[str] = []
        self.back: list[str] = []
        self.clock = ManualClock()
        self.watch = Takeovers(
            self.gate,  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            self.clock,
            ended=lambda batch: self.over.extend(x.id for x in batch),
            come_back=lambda batch: self.back.extend(x.id for x in batch),
            record=self.telemetry_events.append,
        )
        self.taken = arrivals(2)
        self.watch.add((x, "holder") for x in self.taken)
        self.gate.answer = Claims(taken=[(x, "holder") for x in self.taken])

    async def check_at(self, now_s: float) -> None:
        self.clock.now_s = now_s
        await self.watch.check()


async def test_an_event_leased_elsewhere_is_watched_until_it_ends() -> None:
    at = Harness()
    for n in range(100):
        at.gate.counter = n
        await at.check_at(float(n))
    assert (at.over, at.back, at.watch.count) == ([], [], 2)


async def test_events_with_a_done_marker_end_and_free_events_are_requeued() -> None:
    at = Harness()
    at.gate.answer = Claims(ended=at.taken[:1], free=at.taken[1:])
    await at.check_at(0)
    assert (at.over, at.back, at.watch.count) == (["1"], ["2"], 0)


async def test_the_sessions_of_a_dead_lease_owner_end_before_its_leases_are_broken() -> None:
    at = Harness()
    await at.check_at(0)
    await at.check_at(3.9)
    assert (at.store.ended, at.gate.freed) == ([], [])
    await at.check_at(4.0)
    assert (at.store.ended, at.gate.freed, at.back) == (["holder"], [(["1", "2"], "holder")], ["1", "2"])
    assert at.telemetry_events == [TakenOver(2, "holder")]


async def test_without_postgresql_there_is_no_takeover() -> None:
    at = Harness()
    at.store.is_up = False
    await at.check_at(0)
    await at.check_at(5)
    assert (at.gate.freed, at.back, at.watch.count) == ([], [], 2)
    at.store.is_up = True
    await at.check_at(5.5)
    assert at.back == ["1", "2"]


async def test_while_redis_is_down_no_lease_owner_is_declared_dead() -> None:
    at = Harness()
    await at.check_at(0)
    at.gate.is_up = False
    await at.check_at(3)
    at.gate.is_up = True
    await at.check_at(60)
    assert at.store.ended == []


@pytest.mark.parametrize(("sessions", "charged"), [(Sessions.NONE, True), (Sessions.SILENT, False)])
async def test_a_crash_is_counted_only_if_the_sessions_ended_with_the_process(
    sessions: Sessions, charged: bool
) -> None:
    at = Harness()
    at.store.sessions = sessions
    await at.check_at(0)
    await at.check_at(4)
    assert (at.gate.charged, at.back) == ([charged], ["1", "2"])


async def test_a_lease_owner_that_works_in_postgresql_is_not_taken_over_without_heartbeat() -> None:
    at = Harness()
    at.store.sessions = Sessions.IN_USE
    await at.check_at(0)
    await at.check_at(4)
    assert (at.gate.freed, at.back, at.watch.count) == ([], [], 2)
    at.store.sessions = Sessions.SILENT
    await at.check_at(8)
    assert at.back == ["1", "2"]
