"""Undecoded ranges are inserted whole; those that are refused are attempted event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.ranges import Range, WholeRanges
from oncecast.core.telemetry import Duplicates, InsertFailed, Persisted, Started
from oncecast.listener.feed.track import Track
from oncecast.testing.memory import MemoryEvents
from oncecast.testing.memory.call import Act, at_once
from tests.simulation.clock import VirtualClock
from tests.support.arrivals import Credit, receive_ranges, track
from tests.support.memory_servers import REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time
from tests.unit.listener.pipeline.test_pipeline import Member, frame


def receive(member: Member, on: Track, *ids: str, size: int = 1_000, type: str = "stored") -> list[Range]:
    """Receive a frame, which is not decoded; events of the type `stored` have no handler."""
    text = frame(on.watermark.received + 1, *ids, type=type)
    made = receive_ranges(on, text, size, decode=False)
    member.pipeline.receive(made)
    return made


def rows(at: MemoryServers) -> list[str]:
    return sorted(row.id for row in at.postgres.tables.rows.values())


class Held:
    """Calls to PostgreSQL, the first of which waits for `may_go_on` before or after it acts."""

    def __init__(self, *, after: bool) -> None:
        self.may_go_on = asyncio.Event()
        self.has_begun = asyncio.Event()
        self._after = after
        self._held = False

    async def call(self, act: Act) -> Any:
        if self._held:
            return await at_once(act)
        self._held = True
        result = await at_once(act) if self._after else None
        self.has_begun.set()
        await self.may_go_on.wait()
        return result if self._after else await at_once(act)


class HangingEvents(MemoryEvents):
    """The first `hanging` insertions of whole ranges get no answer until `give_up` is set, and act as `acts` says."""

    hanging = 0
    acts = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.give_up = asyncio.Event()
        self.inserted: list[list[str]] = []
        self.may_insert = asyncio.Event()
        self.may_insert.set()

    async def insert_whole(self, whole: WholeRanges) -> bool:
        self.inserted.append([each.place for each in whole.ranges])
        if len(self.inserted) > self.hanging:
            return await super().insert_whole(whole)
        stored = self.acts and await super().insert_whole(whole)
        await self.give_up.wait()
        if not self.acts:
            raise Unavailable("no answer in time")
        return stored

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        await self.may_insert.wait()
        return await super().insert(arrivals)


def hanging(at: MemoryServers, number: int, *, acts: bool = False) -> tuple[Member, HangingEvents]:
    member = Member(at, events=HangingEvents)
    assert isinstance(member.store, HangingEvents)
    member.store.hanging, member.store.acts = number, acts
    return member, member.store


@in_virtual_time
async def test_a_range_that_is_claimed_again_while_it_is_inserted_is_not_queued_again(clock: VirtualClock) -> None:
    """Otherwise it could end with a transaction that has none of its events: they would be lost."""
    at = MemoryServers(clock)
    member, store = hanging(at, 2)
    on = track()
    async with member.running():
        receive(member, on, "a", "b")
        await clock.sleep(0.1)
        receive(member, on, "c", "d")
        await clock.sleep(0.1)
        await member.pipeline.release_all()  # and both are claimed again
        await clock.sleep(0.1)
        receive(member, on, "e", "f")
        await clock.sleep(0.1)
        store.may_insert.clear()
        store.give_up.set()
        await clock.sleep(1)
        assert (rows(at), on.watermark.value) == (["e", "f"], 0)
        store.may_insert.set()
        await clock.sleep(1)
    assert (rows(at), on.watermark.value, len(store.inserted)) == (list("abcdef"), 6, 3)


@in_virtual_time
async def test_a_range_that_is_claimed_again_without_redis_while_it_is_inserted_ends_once(
    clock: VirtualClock,
) -> None:
    at = MemoryServers(clock)
    member, store = hanging(at, 1, acts=True)
    on = track()
    async with member.running():
        (each,) = receive(member, on, "a", "b")
        await clock.sleep(0.1)
        at.to_redis.error = REFUSED
        await member.pipeline.release_all()
        await clock.sleep(0.1)
        store.give_up.set()
        await clock.sleep(1)
    assert (rows(at), on.watermark.value, each.unended) == (["a", "b"], 2, 0)
    (ended,) = [x for x in member.telemetry_events if isinstance(x, Persisted | Duplicates)]
    assert (type(ended), ended.count, ended.types) == (Persisted, 2, {"stored": 2})


@in_virtual_time
async def test_a_range_that_is_refused_after_it_was_released_is_attempted_when_it_is_claimed_again(
    clock: VirtualClock,
) -> None:
    at = MemoryServers(clock)
    member, store = hanging(at, 1)
    on = track()
    async with member.running():
        (each,) = receive(member, on, "a", "b")
        await clock.sleep(0.1)
        await at.other_leases.take_over([each], "a", died=False)
        await member.pipeline.release_all()
        await at.other_leases.claim([each])
        store.give_up.set()
        await clock.sleep(0.1)
        await at.other_leases.release([each])
        await clock.sleep(2)
    assert (rows(at), on.watermark.value, each.is_whole) == (["a", "b"], 2, False)


@in_virtual_time
async def test_ranges_are_stored_without_being_decoded(clock: VirtualClock) -> None:
    at, credit = MemoryServers(clock), Credit()
    member, on = Member(at), track(credit=credit)
    async with member.running():
        first, second = receive(member, on, "a", "b", "c", size=2)
        await clock.sleep(1)
    assert (rows(at), first.arrivals, second.arrivals) == (["a", "b", "c"], [], [])
    assert (on.watermark.value, member.pipeline.in_flight) == (3, 0)
    assert (await at.other_leases.peek([first, second])).ended == [first, second]
    started, stored = [x for x in member.telemetry_events if isinstance(x, Started | Persisted)]
    assert started == Started(3, "a", "c")
    assert isinstance(stored, Persisted)
    assert (stored.count, stored.types, [count for _, count in stored.waited_s]) == (3, {"stored": 3}, [2, 1])


@in_virtual_time
async def test_events_with_a_handler_are_not_stored_without_it(clock: VirtualClock) -> None:
    """A listener that decodes no ranges may have handlers of Oncecast's own types."""
    at = MemoryServers(clock)
    member, on = Member(at), track()
    async with member.running():
        receive(member, on, "a", "b", type="tick")
        await clock.sleep(1)
    assert (rows(at), member.app.handled) == (["a", "b"], ["a", "b"])


@in_virtual_time
async def test_a_range_with_an_event_that_has_a_row_ends_event_by_event(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    async with member.running():
        receive(member, on, "a", "b")
        receive(member, on, "b", "c")
        await clock.sleep(1)
    assert (rows(at), on.watermark.value) == (["a", "b", "c"], 4)
    assert [x for x in member.telemetry_events if isinstance(x, Duplicates)] == [
        Duplicates(1, "b", "b", {"stored": 1})
    ]


@in_virtual_time
async def test_after_an_outage_ranges_are_attempted_event_by_event(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    at.to_postgres.next_errors = [REFUSED, REFUSED]
    async with member.running():
        receive(member, on, "a", "b")
        await clock.sleep(5)
    assert (rows(at), on.watermark.value) == (["a", "b"], 2)
    assert [x.id for x in member.telemetry_events if isinstance(x, InsertFailed)] == ["a"]


@in_virtual_time
async def test_an_answer_that_is_lost_stores_nothing_twice(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    is_lost = True

    async def call(act: Act) -> Any:
        nonlocal is_lost
        result = await at_once(act)
        if is_lost and at.postgres.tables.rows:
            is_lost = False
            raise Unavailable("the connection was lost")
        return result

    member, on = Member(at, to_postgres=call), track()
    async with member.running():
        receive(member, on, "a", "b")
        await clock.sleep(5)
    assert (rows(at), on.watermark.value) == (["a", "b"], 2)


@in_virtual_time
async def test_a_range_that_is_released_while_it_is_inserted_ends_when_that_succeeds(clock: VirtualClock) -> None:
    at, held = MemoryServers(clock), Held(after=True)
    member, on = Member(at, to_postgres=held.call), track()
    async with member.running():
        receive(member, on, "a", "b")
        await held.has_begun.wait()
        at.to_redis.error = REFUSED  # nobody claims it meanwhile
        await member.pipeline.release_all()
        held.may_go_on.set()
        await clock.sleep(1)
    assert (rows(at), on.watermark.value, member.pipeline.in_flight) == (["a", "b"], 2, 0)


@in_virtual_time
async def test_rows_of_a_superseded_position_move_no_watermark(clock: VirtualClock) -> None:
    at, held = MemoryServers(clock), Held(after=True)
    member, on = Member(at, to_postgres=held.call), track()
    async with member.running():
        receive(member, on, "a", "b")
        await held.has_begun.wait()
        on.abandon()
        held.may_go_on.set()
        await clock.sleep(1)
    assert (rows(at), on.watermark.value, member.pipeline._unrecorded) == (["a", "b"], 0, [])


@in_virtual_time
async def test_a_drain_waits_for_whole_ranges(clock: VirtualClock) -> None:
    at, held = MemoryServers(clock), Held(after=False)
    member, on = Member(at, to_postgres=held.call), track()
    async with member.running():
        receive(member, on, "a", "b")
        await held.has_begun.wait()
        draining = asyncio.create_task(member.pipeline.finish_claimed())
        await clock.sleep(1)
        assert not draining.done()
        held.may_go_on.set()
        await draining
    assert rows(at) == ["a", "b"]


@in_virtual_time
async def test_without_redis_ranges_are_attempted_event_by_event(clock: VirtualClock) -> None:
    """Other listeners insert the same events."""
    at = MemoryServers(clock)
    at.to_redis.error = REFUSED
    member, store = hanging(at, 0)
    async with member.running():
        receive(member, track(), "a", "b")
        await clock.sleep(1)
    assert (rows(at), store.inserted) == (["a", "b"], [])
