"""Queues claim the ranges that they can soon attempt; other listeners can claim the rest."""

from __future__ import annotations

import pytest

from oncecast import App, Event
from oncecast.core.event import Arrival
from oncecast.core.ranges import RANGE_MAX_EVENTS
from oncecast.listener.pipeline.queues import WHOLE_MAX_EVENTS, WORK_MAX_BYTES, WorkItem, WorkQueue, WorkQueues
from tests.support.arrivals import arrivals, ranges


def app_of_all_kinds() -> App:
    app = App()

    @app.on("single")
    async def single(event: Event) -> None: ...

    @app.on_batch("batch", max_events=10)
    async def batch(events: list[Event]) -> None: ...

    @app.on("shared", share_transaction=True)
    async def shared(event: Event) -> None: ...

    return app


def queues_of(app: App | None = None) -> WorkQueues:
    return WorkQueues(app or app_of_all_kinds(), handler_concurrency=8, ready_ahead=0)


async def all_of(queue: WorkQueue) -> list[WorkItem]:
    work = []
    while queue.next_offset is not None:
        work.append(await queue.get())
    return work


async def test_ranges_are_claimed_up_to_the_room_and_again_when_half_of_it_is_free() -> None:
    queue = WorkQueue(1, 10)
    queue.add_ranges(ranges(5, size=4))
    claimed = await queue.ranges_to_claim()
    assert [each.first for each in claimed] == [1, 5, 9]
    queue.put([arrival for each in claimed for arrival in each.arrivals], None)
    for _ in range(12 - 5):
        assert not queue._may_claim.is_set()
        await queue.get()
    assert [each.first for each in await queue.ranges_to_claim()] == [13, 17]


async def test_a_range_that_is_put_back_is_claimed_before_newer_ones() -> None:
    queue = WorkQueue(1, 1)
    older, newer = ranges(2)
    queue.add_ranges([newer])
    queue.put_range_back(older)
    assert await queue.ranges_to_claim() == [older]


@pytest.mark.parametrize(
    ("type", "sizes"), [("single", [1] * 25), ("batch", [10, 10, 5]), ("shared", [25]), ("stored", [25])]
)
async def test_a_work_item_has_at_most_as_many_events_as_its_handlers_take(type: str, sizes: list[int]) -> None:
    queues = queues_of()
    (each,) = ranges(1, size=25, type=type)
    queues.put(each.arrivals)
    assert [len(work) for work in await all_of(queues.of_range(each))] == sizes


async def test_a_work_item_of_large_events_is_limited_by_their_bytes() -> None:
    queues = queues_of()
    events = arrivals(5)
    for arrival in events:
        arrival.cost_bytes = WORK_MAX_BYTES // 2
    queues.put(events)
    assert [len(work) for work in await all_of(queues.store_only)] == [2, 2, 1]


async def test_a_work_item_is_of_one_epoch_and_sorted_by_offset() -> None:
    queues = queues_of()
    first, second, third, of_next = events = arrivals(4)
    of_next.epoch = "e2"
    queues.put([of_next, third, first, second])
    assert await all_of(queues.store_only) == [[of_next], events[:3]]


def test_a_range_is_claimed_by_the_queue_of_its_slowest_kind() -> None:
    queues = queues_of()
    (each,) = ranges(1, size=3, type="stored")
    assert queues.of_range(each) is queues.store_only
    each.arrivals[1].type = "batch"
    assert queues.of_range(each) is queues.batched
    each.arrivals[2].type = "single"
    assert queues.of_range(each) is queues.one_by_one


def after_a_failure(arrival: Arrival) -> None:
    arrival.attempts = 1


def after_the_last_failure(arrival: Arrival) -> None:
    arrival.terminal_error = ValueError("no")


def quarantined(arrival: Arrival) -> None:
    arrival.range.takeovers = 2


@pytest.mark.parametrize("change", [after_a_failure, after_the_last_failure, quarantined])
async def test_events_that_failed_or_are_quarantined_are_attempted_one_by_one(change: object) -> None:
    queues = queues_of()
    events = arrivals(2, type="batch")
    for arrival in events:
        change(arrival)  # type: ignore[operator]
    queues.put(events)
    assert await all_of(queues.one_by_one) == [[events[0]], [events[1]]]


async def test_requeued_events_come_before_the_others_in_their_order() -> None:
    queues = queues_of()
    first, second, third = arrivals(3, type="single")
    queues.put([third])
    queues.put([first, second], first=True)
    assert await all_of(queues.one_by_one) == [[first], [second], [third]]


async def test_an_event_after_a_lock_timeout_waits_behind_the_others_of_its_queue_with_few_workers() -> None:
    queues = queues_of()
    first, second, third = arrivals(3, type="single")
    for arrival in (first, second, third):
        arrival.lock_timeout = True
        queues.put([arrival], first=True)
    assert await all_of(queues.lock_timeouts) == [[first], [second], [third]]
    assert queues.lock_timeouts.workers < queues.one_by_one.workers


def test_small_batches_do_not_claim_as_much_as_store_only_events() -> None:
    queues = queues_of()
    assert queues.one_by_one.ahead_max_events < queues.batched.ahead_max_events < RANGE_MAX_EVENTS
    assert queues.store_only.ahead_max_events >= RANGE_MAX_EVENTS


async def test_whole_ranges_are_taken_up_to_their_maximum_and_leave_room_when_taken() -> None:
    queue = WorkQueue(1, 10)
    whole = ranges(5, size=WHOLE_MAX_EVENTS // 2)
    queue.put_whole(whole)
    queue.add_ranges(ranges(1))
    assert not queue._may_claim.is_set()
    assert await queue.get_whole() == whole[:2]
    assert await queue.get_whole() == whole[2:4]
    assert not queue.is_empty
    assert await queue.get_whole() == whole[4:]
    assert await queue.ranges_to_claim()


async def test_whole_ranges_of_another_epoch_are_taken_apart() -> None:
    queue = WorkQueue(1, 10)
    older, newer = ranges(2)
    newer.epoch = "e2"
    queue.put_whole([older, newer])
    assert (await queue.get_whole(), await queue.get_whole()) == ([older], [newer])


async def test_a_range_larger_than_the_maximum_is_taken_alone() -> None:
    queue = WorkQueue(1, 10)
    large, small = ranges(1, size=WHOLE_MAX_EVENTS + 1)[0], ranges(1)[0]
    queue.put_whole([large, small])
    assert await queue.get_whole() == [large]
