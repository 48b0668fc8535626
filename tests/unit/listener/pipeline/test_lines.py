"""Queues claim what they can soon attempt; other listeners can claim the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from oncecast import App, Event
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.event import Arrival
from oncecast.core.leases import Claims
from oncecast.listener.pipeline.claim import WorkItem
from oncecast.listener.pipeline.lines import FAST_LANE_CLAIM, Lines
from tests.support.arrivals import arrivals
from tests.support.clock import ManualClock

LANES = 2
"""The queue for batched events."""


async def batch_handler(events: list[Event]) -> None: ...
async def shared_handler(event: Event) -> None: ...


class Harness:
    """Lines whose leases are all free, and whose attempts never end."""

    def __init__(self, app: App, clock: Clock = SYSTEM_CLOCK) -> None:
        self.claimed: list[int] = []
        self.attempted: list[WorkItem] = []
        self.lines = Lines(
            app,
            handler_concurrency=8,
            leases=self,
            database=self,
            clock=clock,
            attempt=self._attempt,
            sort_out=lambda _claims: None,
        )

    async def wait(self) -> None:
        """PostgreSQL is up."""

    async def claim(self, batch: Sequence[Arrival]) -> Claims:
        self.claimed.append(len(batch))
        return Claims(mine=list(batch))

    async def _attempt(self, work: WorkItem) -> None:
        self.attempted.append(work)
        await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Return the claimed events while all workers are busy."""
        tasks = [asyncio.create_task(task) for task in (*self.lines.claiming(), *self.lines.working())]
        for _ in range(50):
            await asyncio.sleep(0)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("max_events", "a_claim"), [(10, 40), (3, 12), (100, 400), (500, 1_000)])
async def test_a_claim_covers_a_few_handler_calls_however_many_events_wait(max_events: int, a_claim: int) -> None:
    app = App()
    app.on_batch("tick", max_events=max_events)(batch_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [max_events] * LANES
        assert set(at.claimed) == {a_claim}
        assert sum(at.claimed) <= 8 * LANES * max_events


async def test_a_shared_transaction_is_filled_to_its_maximum() -> None:
    app = App()
    app.on("tick", share_transaction=True)(shared_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [100] * LANES


async def test_small_batches_do_not_claim_as_much_as_large_ones() -> None:
    app = App()
    app.on_batch("few", max_events=10)(batch_handler)
    app.on_batch("many", max_events=500)(batch_handler)
    at = Harness(app)
    few, many = arrivals(1_000, type="few"), arrivals(1_000, type="many", first=1_001)
    at.lines.push([arrival for pair in zip(many, few, strict=True) for arrival in pair])
    async with at.running():
        assert max(at.claimed) <= 80


async def test_store_only_events_are_claimed_in_thousands() -> None:
    at = Harness(App())
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert set(at.claimed) == {1_000}


async def single_handler(event: Event) -> None: ...


async def test_events_after_a_lock_timeout_have_few_workers_and_do_not_delay_others() -> None:
    app = App()
    app.on("tick")(single_handler)
    at = Harness(app)
    held_up = arrivals(100)
    for arrival in held_up:
        arrival.held_up = True
    at.lines.push_first(held_up)
    async with at.running():
        assert at.attempted == [[held_up[0]], [held_up[1]]]
        at.lines.push(arrivals(8, first=101))
        while len(at.attempted) < 2 + 8:
            await asyncio.sleep(0)


async def test_an_event_after_a_lock_timeout_waits_behind_the_others_of_its_queue() -> None:
    app = App()
    app.on("tick")(single_handler)
    at = Harness(app)
    first, second, third = arrivals(3)
    for arrival in (first, second, third):
        arrival.held_up = True
        at.lines.push_first([arrival])
    async with at.running():
        assert at.attempted == [[first], [second]]


class Timed(Harness):
    """Queues whose attempts take the given time, by their own clock."""

    def __init__(self, *, is_ours: bool = True) -> None:
        self.clock = ManualClock()
        self.attempt_s = 0.0
        self._is_ours = is_ours
        app = App()
        app.on("tick")(single_handler)
        super().__init__(app, self.clock)

    async def claim(self, batch: Sequence[Arrival]) -> Claims:
        claims = await super().claim(batch)
        self.clock.now_s += 0.001
        return claims if self._is_ours else Claims(taken=[(arrival, "another") for arrival in batch])

    async def _attempt(self, work: WorkItem) -> None:
        await asyncio.sleep(0)
        self.clock.now_s += self.attempt_s

    async def work_off(self, count: int, *, attempt_s: float) -> list[int]:
        """Return the sizes of the claims for the given number of events."""
        self.attempt_s = attempt_s
        self.claimed.clear()
        self.lines.push(arrivals(count))
        while sum(self.claimed) < count:
            await asyncio.sleep(0)
        return self.claimed


async def test_the_size_of_a_claim_follows_the_recent_throughput() -> None:
    at = Timed()
    async with at.running():
        slow = await at.work_off(2_000, attempt_s=0.05)
        assert max(slow) == 32
        quick = await at.work_off(5_000, attempt_s=0.001)
        assert quick[0] == 32
        assert 90 <= max(quick) <= 100
        quickest = await at.work_off(10_000, attempt_s=0.0001)
        assert max(quickest) == 8 * FAST_LANE_CLAIM
        slow_again = await at.work_off(2_000, attempt_s=0.05)
        assert sum(count > 32 for count in slow_again) <= 3


async def test_events_leased_elsewhere_do_not_enlarge_claims() -> None:
    at = Timed(is_ours=False)
    async with at.running():
        assert set(await at.work_off(3_200, attempt_s=0.001)) == {32}


async def test_without_throughput_claims_do_not_grow() -> None:
    app = App()
    app.on("tick")(single_handler)
    at = Harness(app)
    at.lines.push(arrivals(1_000))
    async with at.running():
        assert set(at.claimed) == {32}
