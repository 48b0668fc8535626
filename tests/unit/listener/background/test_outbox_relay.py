"""Emitted events are relayed when there are any, and again after an outage of the producer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from oncecast.core.errors import EmissionRefused, Unavailable
from oncecast.core.event import Arrival
from oncecast.core.telemetry import EmissionDropped, EmissionsRelayed, OutboxBlocked, TelemetryEvent
from oncecast.core.transaction import OpenTransaction
from oncecast.listener.background.outbox_relay import CHECK_INTERVAL_S, Emissions, RelayLimits
from oncecast.testing.memory import MemoryOutbox
from tests.simulation.clock import VirtualClock
from tests.support.memory_servers import MemoryServers
from tests.support.places import arrival
from tests.support.virtual_time import in_virtual_time, running

LIMITS = RelayLimits()
AT_ONCE_S = 0.1
AGAIN_S = 5.0
"""In this time what failed has been tried again."""


class Harness:
    def __init__(self, clock: VirtualClock, limits: RelayLimits = LIMITS) -> None:
        self.servers = MemoryServers(clock)
        self.published: list[bytes] = []
        self.errors: list[Exception] = []
        self.can_take = 500
        outbox = MemoryOutbox(self.servers.postgres, instance="a", token="a")
        self.station = Emissions(
            outbox, self._publish, self.servers.database, clock, limits=limits, record=self.telemetry_events.append
        )

    @property
    def telemetry_events(self) -> list[TelemetryEvent]:
        return self.servers.telemetry_events

    async def emit(self, *events: bytes) -> None:
        async def work(tx: OpenTransaction, _new: Sequence[Arrival]) -> None:
            tx.emitted.extend(events)

        await self.servers.events.process_together([arrival(1, f"cause of {events}")], work)

    async def _publish(self, events: Sequence[bytes]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if len(events) > self.can_take:
            await asyncio.Event().wait()
        self.published.extend(events)


@in_virtual_time
async def test_it_relays_when_woken(clock: VirtualClock) -> None:
    at = Harness(clock)
    async with running(at.station.relay_loop()):
        await at.emit(b"1", b"2")
        at.station.wake()
        await clock.sleep(AT_ONCE_S)
    assert at.published == [b"1", b"2"]
    assert EmissionsRelayed(2) in at.telemetry_events


@in_virtual_time
async def test_it_checks_the_outbox_periodically_without_being_woken(clock: VirtualClock) -> None:
    at = Harness(clock)
    async with running(at.station.relay_loop()):
        await clock.sleep(AT_ONCE_S)
        await at.emit(b"1")
        await clock.sleep(CHECK_INTERVAL_S)
    assert at.published == [b"1"]


@in_virtual_time
async def test_an_unreachable_producer_blocks_the_outbox_and_is_reported_once(clock: VirtualClock) -> None:
    at = Harness(clock)
    at.errors = [Unavailable("away")] * 2
    async with running(at.station.relay_loop()):
        await at.emit(b"1")
        at.station.wake()
        await clock.sleep(AT_ONCE_S)
        blocked = [at.station.blocked]
        await clock.sleep(AGAIN_S)
        blocked.append(at.station.blocked)
    assert (at.published, blocked) == ([b"1"], ["away", None])
    assert [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, OutboxBlocked)] == [
        OutboxBlocked("away")
    ]


@in_virtual_time
async def test_a_slow_producer_gets_smaller_chunks(clock: VirtualClock) -> None:
    at = Harness(clock, RelayLimits(chunk_events=8))
    at.can_take = 2
    emitted = [b"%d" % n for n in range(8)]
    await at.emit(*emitted)
    async with running(at.station.relay_loop()):
        await clock.sleep(20 * LIMITS.publish_s)
    assert at.published == emitted
    (reported,) = [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, OutboxBlocked)][:1]
    assert reported == OutboxBlocked("no producer took 8 events within 15 s")


@in_virtual_time
async def test_an_event_that_no_producer_accepts_is_reported_and_blocks_nothing(clock: VirtualClock) -> None:
    at = Harness(clock)
    at.errors = [EmissionRefused("too large", 0)]
    async with running(at.station.relay_loop()):
        await at.emit(b"1", b"2")
        at.station.wake()
        await clock.sleep(AT_ONCE_S)
    assert at.published == [b"2"]
    assert EmissionDropped("too large") in at.telemetry_events
