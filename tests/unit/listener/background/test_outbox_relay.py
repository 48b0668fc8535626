"""What handlers emit is relayed when there is something, and again when a producer was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import EmissionRefused, Unavailable
from oncecast.core.event import Arrival
from oncecast.core.telemetry import EmissionDropped, EmissionsRelayed, OutboxBlocked, TelemetryEvent
from oncecast.core.transaction import OpenTransaction
from oncecast.listener.background.outbox_relay import Emissions, RelayLimits
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.testing.memory import MemoryEvents, MemoryOutbox, MemoryPostgres
from tests.support.places import arrival

LIMITS = RelayLimits()


class Harness:
    def __init__(self, limits: RelayLimits = LIMITS) -> None:
        server = MemoryPostgres()
        self.store = MemoryEvents(server, instance="a", token="a")
        self.telemetry_events: list[TelemetryEvent] = []
        self.published: list[bytes] = []
        self.errors: list[Exception] = []
        self.something = asyncio.Event()
        self.can_take = 500
        database = DatabaseGate(
            self.store, SYSTEM_CLOCK, probe_interval_s=1.0, paused=lambda: None, emit=self.telemetry_events.append
        )
        outbox = MemoryOutbox(server, instance="a", token="a")
        self.station = Emissions(
            outbox, self._publish, database, SYSTEM_CLOCK, limits=limits, emit=self.telemetry_events.append
        )

    async def emit(self, *events: bytes) -> None:
        async def work(tx: OpenTransaction, _new: Sequence[Arrival]) -> None:
            tx.emitted.extend(events)

        await self.store.process_together([arrival(1, f"cause of {events}")], work)

    async def _publish(self, events: Sequence[bytes]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if len(events) > self.can_take:
            await asyncio.Event().wait()
        self.published.extend(events)
        self.something.set()


@pytest.fixture
async def at() -> AsyncIterator[Harness]:
    harness = Harness()
    relaying = asyncio.create_task(harness.station.relay_for_ever())
    yield harness
    relaying.cancel()


async def test_it_relays_when_woken(at: Harness) -> None:
    await at.emit(b"1", b"2")
    at.station.wake()
    async with asyncio.timeout(120):
        await at.something.wait()
    assert at.published == [b"1", b"2"]
    assert EmissionsRelayed(2) in at.telemetry_events


async def test_it_looks_now_and_then_though_nobody_wakes_it(at: Harness) -> None:
    await at.emit(b"1")
    async with asyncio.timeout(120):
        await at.something.wait()
    assert at.published == [b"1"]


async def test_a_producer_that_is_away_holds_it_up_and_is_told_of_once(at: Harness) -> None:
    at.errors = [Unavailable("away")] * 2
    await at.emit(b"1")
    at.station.wake()
    async with asyncio.timeout(120):
        await at.something.wait()
        while at.station.held_up is not None:
            await asyncio.sleep(0)
    assert at.published == [b"1"]
    assert [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, OutboxBlocked)] == [
        OutboxBlocked("away")
    ]


async def test_what_is_too_much_for_a_slow_producer_is_brought_to_it_in_smaller_pieces() -> None:
    at = Harness(RelayLimits(chunk_events=8, publish_s=0.05))
    at.can_take = 2
    emitted = [b"%d" % n for n in range(8)]
    await at.emit(*emitted)
    relaying = asyncio.create_task(at.station.relay_for_ever())
    async with asyncio.timeout(120):
        while len(at.published) < len(emitted):
            at.something.clear()
            await at.something.wait()
    relaying.cancel()
    assert at.published == emitted
    (told,) = [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, OutboxBlocked)][:1]
    assert told == OutboxBlocked("no producer took 8 events within 0.05 s")


async def test_what_no_producer_takes_is_told_and_holds_up_nothing(at: Harness) -> None:
    at.errors = [EmissionRefused("too large", 0)]
    await at.emit(b"1", b"2")
    at.station.wake()
    async with asyncio.timeout(120):
        await at.something.wait()
    assert at.published == [b"2"]
    assert EmissionDropped("too large") in at.telemetry_events
