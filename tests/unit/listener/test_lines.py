"""Lines claim what they can work on soon; what is not claimed, another listener can take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from oncecast import Event, Listener
from oncecast.core.event import Arrival
from oncecast.core.ports import Claims
from oncecast.listener.claim import Work
from oncecast.listener.lines import Lines
from tests.support.arrivals import arrivals

LANES = 2
"""Of the line for what goes together."""


async def batch_handler(events: list[Event]) -> None: ...
async def shared_handler(event: Event) -> None: ...


class Harness:
    """Lines whose leases are all free, and whose attempts never end."""

    def __init__(self, app: Listener) -> None:
        self.claimed: list[int] = []
        self.attempted: list[Work] = []
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

    async def _attempt(self, work: Work) -> None:
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
    app = Listener()
    app.on_batch("tick", max_events=max_events)(batch_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [max_events] * LANES
        assert set(at.claimed) == {a_claim}
        assert sum(at.claimed) <= 8 * LANES * max_events


async def test_a_transaction_that_is_shared_is_as_full_as_ever() -> None:
    app = Listener()
    app.on("tick", share_transaction=True)(shared_handler)
    at = Harness(app)
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert [len(work) for work in at.attempted] == [100] * LANES


async def test_handlers_that_take_few_do_not_have_many_claimed_for_the_sake_of_those_that_take_many() -> None:
    app = Listener()
    app.on_batch("few", max_events=10)(batch_handler)
    app.on_batch("many", max_events=500)(batch_handler)
    at = Harness(app)
    few, many = arrivals(1_000, type="few"), arrivals(1_000, type="many", first=1_001)
    at.lines.push([arrival for pair in zip(many, few, strict=True) for arrival in pair])
    async with at.running():
        assert max(at.claimed) <= 80


async def test_what_is_only_stored_is_claimed_a_thousand_at_a_time() -> None:
    at = Harness(Listener())
    at.lines.push(arrivals(5_000))
    async with at.running():
        assert set(at.claimed) == {1_000}
