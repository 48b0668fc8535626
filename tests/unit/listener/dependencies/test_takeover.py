"""Ranges leased elsewhere are watched until they have ended, are free, or their lease owner is dead."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.leases import Claims
from oncecast.core.ports import Sessions
from oncecast.core.ranges import Range
from oncecast.core.telemetry import TakenOver, TelemetryEvent
from oncecast.listener.dependencies.takeover import Takeovers
from tests.support.arrivals import ranges
from tests.support.clock import ManualClock


class Gate:
    """A scripted LeaseGate."""

    def __init__(self) -> None:
        self.answer = Claims()
        self.counter: int | None = 7
        self.is_up = True
        self.freed: list[tuple[list[Range], str]] = []
        self.charged: list[bool] = []

    async def peek(self, batch: Sequence[Range]) -> Claims:
        return self.answer

    async def counters(self, tokens: Sequence[str]) -> dict[str, int | None] | None:
        return dict.fromkeys(tokens, self.counter) if self.is_up else None

    async def take_over(self, batch: Sequence[Range], owner: str, *, died: bool) -> None:
        self.freed.append((list(batch), owner))
        self.charged.append(died)


class Store:
    def __init__(self) -> None:
        self.is_down = False
        self.is_locked = False
        self.ended: list[str] = []
        self.sessions = Sessions.NONE

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        if self.is_down:
            raise Unavailable("x")
        self.ended.append(token)
        return self.sessions


class Harness:
    def __init__(self) -> None:
        self.gate, self.store = Gate(), Store()
        self.telemetry_events: list[TelemetryEvent] = []
        self.crashed: list[str] = []
        self.taken_over: list[Range] = []
        self.clock = ManualClock()
        self.watch = Takeovers(
            self.gate,  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.clock,
            record=self.telemetry_events.append,
        )
        self.watched = ranges(2, size=3)
        self.gate.answer = Claims(leased_elsewhere=[(each, "owner") for each in self.watched])
        self.watch.add(self.gate.answer.leased_elsewhere)

    async def count_crash(self, token: str) -> None:
        if self.store.is_locked:
            raise RowLocked("quarantined")
        self.crashed.append(token)

    async def check_at(self, now_s: float) -> None:
        self.clock.now_s = now_s
        found = await self.watch.peek()
        self.taken_over = await self.watch.take_over(found.leased_elsewhere)


async def test_a_range_leased_elsewhere_is_watched_until_it_ends() -> None:
    at = Harness()
    for n in range(100):
        at.gate.counter = n
        await at.check_at(float(n))
    assert (at.taken_over, at.watch.count) == ([], 6)


async def test_ranges_that_have_ended_or_are_free_are_watched_no_longer() -> None:
    at = Harness()
    at.gate.answer = Claims(ended=at.watched[:1], free=at.watched[1:])
    await at.check_at(0)
    assert at.watch.count == 0


async def test_the_sessions_of_a_dead_lease_owner_end_before_its_leases_are_broken() -> None:
    at = Harness()
    await at.check_at(0)
    await at.check_at(3.9)
    assert (at.store.ended, at.gate.freed) == ([], [])
    await at.check_at(4.0)
    assert (at.store.ended, at.gate.freed, at.taken_over) == (["owner"], [(at.watched, "owner")], at.watched)
    assert at.telemetry_events == [TakenOver(6, "owner")]


@pytest.mark.parametrize("obstacle", ["is_down", "is_locked"])
async def test_while_postgresql_cannot_end_sessions_or_count_a_crash_there_is_no_takeover(obstacle: str) -> None:
    at = Harness()
    setattr(at.store, obstacle, True)
    await at.check_at(0)
    await at.check_at(5)
    assert (at.gate.freed, at.taken_over, at.watch.count) == ([], [], 6)
    setattr(at.store, obstacle, False)
    await at.check_at(5.5)
    assert at.taken_over == at.watched


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
    assert (at.gate.charged, at.crashed, at.taken_over) == ([charged], ["owner"] * charged, at.watched)


async def test_a_lease_owner_that_works_in_postgresql_is_not_taken_over_without_heartbeat() -> None:
    at = Harness()
    at.store.sessions = Sessions.IN_USE
    await at.check_at(0)
    await at.check_at(4)
    assert (at.gate.freed, at.taken_over, at.watch.count) == ([], [], 6)
    at.store.sessions = Sessions.SILENT
    await at.check_at(8)
    assert at.taken_over == at.watched
