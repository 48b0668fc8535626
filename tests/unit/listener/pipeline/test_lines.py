"""Queues claim what they can soon attempt; other listeners can claim the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from oncecast import App, Event
from oncecast.core.event import Arrival
from oncecast.core.leases import Claims
from oncecast.listener.pipeline.claim import WorkItem
from oncecast.listener.pipeline.lines import Lines
from tests.support.arrivals import arrivals

LANES = 2
"""The queue for batched events."""


async def batch_handler(events: list[Event]) -> None: ...
async def shared_handler(event: Event) -> None: ...


class Harness:
    """Lines whose leases are all free, and whose attempts never end."""

    def __init__(self, app: App) -> None:
        self.claimed: list[int] = []
        self.attempted: list[WorkItem] = []
        self.lines = Lines(
            app,
            handler_concurrency=8,
            ready_ahead=0,
            leases=self,
            database=self,
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


async def test_a_claim_of_events_with_handlers_of_their_own_is_small() -> None:
    app = App()
    app.on("tick")(single_handler)
    at = Harness(app)
    at.lines.push(arrivals(1_000))
    async with at.running():
        assert set(at.claimed) == {32}
