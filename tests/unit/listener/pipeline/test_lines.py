"""Lines claim what they can work on soon; what is not claimed, another listener can take."""

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
"""Of the line for what goes together."""


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
            ready_ahead=0,
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
        """With all lanes busy, and all else at a stand."""
        tasks = [asyncio.create_task(task) for task in (*self.lines.claiming(), *self.lines.working())]
        for _ in range(50):
            await asyncio.sleep(0)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("max_events", "a_claim"), [(10, 40), (3, 12), (100, 400), (500, 1_000)])
async def test_a_claim_is_for_a_few_calls_of_the_handler_however_much_has_arrived(
    max_events: int, a_claim: int
) -> None:
    app = App()
    app.on_batch("tick", max_events=max_events)(batch_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [max_events] * LANES
        assert set(at.claimed) == {a_claim}
        assert sum(at.claimed) <= 8 * LANES * max_events


async def test_a_transaction_that_is_shared_is_as_full_as_ever() -> None:
    app = App()
    app.on("tick", share_transaction=True)(shared_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [100] * LANES


async def test_handlers_that_take_few_do_not_have_many_claimed_for_the_sake_of_those_that_take_many() -> None:
    app = App()
    app.on_batch("few", max_events=10)(batch_handler)
    app.on_batch("many", max_events=500)(batch_handler)
    at = Harness(app)
    few, many = arrivals(1_000, type="few"), arrivals(1_000, type="many", first=1_001)
    at.lines.push([arrival for pair in zip(many, few, strict=True) for arrival in pair])
    async with at.running():
        assert max(at.claimed) <= 80


async def test_what_is_only_stored_is_claimed_a_thousand_at_a_time() -> None:
    at = Harness(App())
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert set(at.claimed) == {1_000}


async def single_handler(event: Event) -> None: ...


async def test_events_that_are_held_up_by_a_lock_have_few_lanes_and_leave_the_others_alone() -> None:
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


async def test_what_is_held_up_stands_behind_all_others_that_are() -> None:
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
    """Lines whose attempts take as long as they are told to, by a clock of their own."""

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
        """How large the claims were in which so many events went through."""
        self.attempt_s = attempt_s
        self.claimed.clear()
        self.lines.push(arrivals(count))
        while sum(self.claimed) < count:
            await asyncio.sleep(0)
        return self.claimed


async def test_a_claim_is_for_as_much_as_the_lanes_have_lately_worked_off() -> None:
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


async def test_what_others_have_makes_no_claim_larger() -> None:
    at = Timed(is_ours=False)
    async with at.running():
        assert set(await at.work_off(3_200, attempt_s=0.001)) == {32}


async def test_lanes_that_have_ended_nothing_make_no_claim_larger() -> None:
    app = App()
    app.on("tick")(single_handler)
    at = Harness(app)
    at.lines.push(arrivals(1_000))
    async with at.running():
        assert set(at.claimed) == {32}
