"""Forwarding to a broker that fails and recovers: at least once, each change of state reported once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, DeadLetterMessage
from oncecast.core.errors import Reject, Unavailable
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import DependencyLost, DependencyReady, ForwardingRefused, Sent, TelemetryEvent
from oncecast.listener.dead_letters.forwarding import CHUNK_SIZE, DeadLetterForwarder, SendingTimes
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.testing.memory import MemoryEvents, MemoryPostgres, MemoryUnforwarded
from tests.support.places import arrival

TIMES = SendingTimes(recheck_soon_s=0.02, retry=Backoff(base_s=0.01, max_s=0.02))


class Broker:
    """A broker that accepts everything, unless scripted."""

    max_bytes = 100_000

    def __init__(self) -> None:
        self.got: list[str] = []
        self.away = self.frozen = self.full = False
        self.bad: set[str] = set()
        self.opened = 0

    def __str__(self) -> str:
        return "the broker"

    async def open(self) -> None:
        self.opened += 1
        if self.away:
            raise Unavailable("the broker is away")

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        if self.frozen:
            raise Unavailable("the broker did not answer")
        refused = {m.id for m in messages if self.full or m.id in self.bad}
        self.got += [m.id for m in messages if m.id not in refused]
        return ["no" if m.id in refused else None for m in messages]

    async def close(self) -> None:
        """Nothing is open."""


class Forwarding:
    """A forwarder with all that it needs."""

    def __init__(self, others_after_s: float = OTHERS_AFTER_S) -> None:
        self.postgres = MemoryPostgres()
        self.store = MemoryEvents(self.postgres, instance="a", token="a")
        self.dead_letters = MemoryUnforwarded(self.postgres, instance="a", token="a", others_after_s=others_after_s)
        self.broker = Broker()
        self.telemetry_events: list[TelemetryEvent] = []
        gate = DatabaseGate(
            self.store, SYSTEM_CLOCK, probe_interval_s=0.1, paused=lambda: None, record=self.telemetry_events.append
        )
        self.forwarder = DeadLetterForwarder(
            self.dead_letters, self.broker, gate, SYSTEM_CLOCK, times=TIMES, record=self.telemetry_events.append
        )

    async def dead_letter(self, *offsets: int) -> None:
        for offset in offsets:
            await self.store.dead_letter(arrival(offset), Reject("no"))

    def output(self, *kinds: type[TelemetryEvent]) -> list[str]:
        return [type(telemetry).__name__ for telemetry in self.telemetry_events if isinstance(telemetry, kinds)]

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(120):
            while len(self.output(Sent)) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
async def forwarding() -> Forwarding:
    forwarding = Forwarding()
    assert await forwarding.forwarder.send()
    return forwarding


STATES = (DependencyLost, DependencyReady)


async def test_all_unsent_dead_letters_are_sent_and_counted(forwarding: Forwarding) -> None:
    await forwarding.dead_letter(*range(1, 46))
    assert await forwarding.forwarder.send()
    assert sorted(forwarding.broker.got) == sorted(f"id-{n}" for n in range(1, 46))
    assert (forwarding.forwarder.unforwarded, forwarding.forwarder.is_up, forwarding.output(*STATES)) == (
        0,
        True,
        ["DependencyReady"],
    )
    assert await forwarding.forwarder.send()
    assert len(forwarding.broker.got) == 45


@pytest.mark.parametrize("trouble", ["away", "frozen", "full"])
async def test_an_outage_of_the_broker_and_its_end_are_each_reported_once(
    trouble: str,
) -> None:
    forwarding = Forwarding(others_after_s=0.0)
    assert await forwarding.forwarder.send()
    setattr(forwarding.broker, trouble, True)
    forwarding.telemetry_events.clear()
    running = asyncio.create_task(forwarding.forwarder.send_loop())
    await forwarding.dead_letter(1, 2, 3)
    forwarding.forwarder.wake()
    opened = forwarding.broker.opened
    async with asyncio.timeout(120):
        while forwarding.broker.opened < opened + 4:
            await asyncio.sleep(0.001)
    assert (forwarding.forwarder.unforwarded, forwarding.forwarder.is_up, forwarding.output(*STATES)) == (
        3,
        False,
        ["DependencyLost"],
    )
    setattr(forwarding.broker, trouble, False)
    await forwarding.until_sent(3)
    assert forwarding.output(*STATES) == ["DependencyLost", "DependencyReady"]
    running.cancel()


async def test_a_refused_dead_letter_does_not_delay_the_others(forwarding: Forwarding) -> None:
    forwarding.broker.bad = {"id-1"}
    await forwarding.dead_letter(*range(1, 31))
    assert await forwarding.forwarder.send()
    assert sorted(forwarding.broker.got) == sorted(f"id-{n}" for n in range(2, 31))
    assert (forwarding.output(ForwardingRefused), forwarding.forwarder.unforwarded) == (["ForwardingRefused"], 1)
    assert forwarding.forwarder.is_up


async def test_after_a_refused_chunk_the_next_one_is_sent(forwarding: Forwarding) -> None:
    forwarding.broker.bad = {f"id-{n}" for n in range(1, CHUNK_SIZE + 1)}
    await forwarding.dead_letter(*range(1, CHUNK_SIZE + 2))
    assert not await forwarding.forwarder.send()
    assert not forwarding.forwarder.is_up
    assert await forwarding.forwarder.send()
    assert forwarding.broker.got == [f"id-{CHUNK_SIZE + 1}"]
    assert forwarding.forwarder.is_up


async def test_a_new_dead_letter_is_sent_at_once(forwarding: Forwarding) -> None:
    running = asyncio.create_task(forwarding.forwarder.send_loop())
    for n in range(1, 4):
        await forwarding.dead_letter(n)
        forwarding.forwarder.wake()
        await forwarding.until_sent(n)
    running.cancel()


async def test_a_drain_sends_all_unsent_dead_letters_within_its_time(forwarding: Forwarding) -> None:
    await forwarding.dead_letter(1)
    await forwarding.forwarder.drain(5.0)
    assert forwarding.broker.got == ["id-1"]
    await forwarding.dead_letter(2)
    never = asyncio.Event()

    async def hang(messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        await never.wait()
        return []

    forwarding.broker.send = hang  # type: ignore[method-assign]
    async with asyncio.timeout(120):
        await forwarding.forwarder.drain(0.05)
