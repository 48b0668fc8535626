"""Readers get a limited share of the event loop while events are published, and all of it otherwise."""

from __future__ import annotations

import asyncio
import time

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.journal import JournalBatch
from oncecast.core.wire import events_frame
from oncecast.producer.broadcast.reading import SHARE, ReadBudget
from oncecast.producer.broadcast.ring import Frame

SLICE_S = 0.001


async def slices(budget: ReadBudget, until_s: float) -> int:
    """Return how many slices a reader may do until then; each is charged but takes no real time."""
    count = 0
    while time.monotonic() < until_s:
        await budget.spend(SLICE_S)
        count += 1
    return count


async def test_readers_share_a_tenth_of_the_time_while_events_are_published() -> None:
    budget = ReadBudget(SYSTEM_CLOCK)
    begun_s = time.monotonic()
    with budget.publishing():
        done = await asyncio.gather(*(slices(budget, begun_s + 0.5) for _ in range(5)))
    passed_s = time.monotonic() - begun_s
    assert sum(done) * SLICE_S <= passed_s * SHARE + 5 * SLICE_S
    assert max(done) - min(done) <= 1


async def test_readers_have_all_the_time_when_nothing_is_published() -> None:
    budget = ReadBudget(SYSTEM_CLOCK)
    with budget.publishing():
        pass
    await asyncio.sleep(0.05)
    begun_s = time.monotonic()
    for _ in range(100):
        await budget.spend(0.0)
    assert time.monotonic() - begun_s < 1


async def test_a_reader_does_not_pay_for_the_time_of_its_network() -> None:
    budget = ReadBudget(SYSTEM_CLOCK)
    with budget.publishing():
        async with asyncio.timeout(120):
            await budget.spend_since(time.monotonic() - 3_600, 10)


async def test_a_failed_publication_ends_the_limit() -> None:
    budget = ReadBudget(SYSTEM_CLOCK)
    with pytest.raises(ValueError, match="no"), budget.publishing():
        raise ValueError("no")
    await asyncio.sleep(0.05)
    async with asyncio.timeout(120):
        await budget.spend(1e-6)


@pytest.mark.parametrize("batch", [JournalBatch(7, 2, 123, b'["\xc3\xbc",2]'), JournalBatch(7, 2, 123, b"[]")])
def test_the_size_of_a_frame_is_known_before_it_is_encoded(batch: JournalBatch) -> None:
    frame = Frame(batch)
    size_bytes = frame.size_bytes
    assert len(frame.text) == size_bytes
    assert batch.is_gap or frame.text == events_frame(7, 123, batch.body)
