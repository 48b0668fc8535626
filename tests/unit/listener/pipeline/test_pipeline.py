"""The pipeline of a listener on servers in memory: each event ends once, whichever listener leases its range."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from oncecast import App, Event, Reject
from oncecast.app.isolation import RunOptions
from oncecast.app.plan import Plan
from oncecast.core.errors import NoThread
from oncecast.core.outcomes import Outcome
from oncecast.core.ranges import RANGE_MAX_EVENTS, Range
from oncecast.core.telemetry import DeadLettered, Duplicates, HandlersBlocked, TakenOver, TelemetryEvent
from oncecast.core.wire import Epoch, events_frame
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.attempt import AttemptLimits, Ended
from oncecast.listener.pipeline.pipeline import Parts, Pipeline
from oncecast.listener.recent import Recent
from oncecast.tasks import cancel_all
from oncecast.testing.memory import MemoryCrashLog, MemoryEvents, MemoryLeases
from oncecast.testing.memory.call import Act, at_once
from tests.simulation.clock import VirtualClock
from tests.support.arrivals import Credit, receive_ranges, track
from tests.support.memory_servers import LEASE_TTL_S, MARK_TTL_S, REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time


class Handled(App):
    """Handles `tick` one by one, `batch` in batches and `ordered` in order; keeps what its handlers were given."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[str] = []
        self.batches: list[int] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.has_threads = True

        @self.on("tick", "rejected")
        async def tick(event: Event) -> None:
            self.handled.append(event.id)
            await self.may_end.wait()
            if event.type == "rejected":
                raise Reject("no")

        @self.on_batch("batch")
        async def batch(events: list[Event]) -> None:
            self.batches.append(len(events))

        @self.on("ordered", ordered_by="subject")
        async def ordered(event: Event) -> None:
            self.handled.append(event.id)

        @self.on("threaded")
        def threaded(event: Event) -> None: ...

    def check_threads(self, plan: Plan, abandoned_max: int) -> None:
        if not self.has_threads and plan.in_threads:
            raise NoThread


class Member:
    """The pipeline of one listener."""

    def __init__(
        self,
        at: MemoryServers,
        token: str = "a",
        call: Any = None,
        *,
        to_postgres: Any = None,
        concurrency: int = 8,
        events: type[MemoryEvents] = MemoryEvents,
    ) -> None:
        self.app = Handled()
        self.telemetry_events: list[TelemetryEvent] = []
        self.dead_lettered = 0
        record, to_postgres, to_redis = (
            self.telemetry_events.append,
            to_postgres or call or at.to_postgres.call,
            call or at.to_redis.call,
        )
        self.store = store = events(at.postgres, instance=token, token=token, call=to_postgres)
        leases = MemoryLeases(at.redis, token=token, lease_ttl_s=LEASE_TTL_S, mark_ttl_s=MARK_TTL_S, call=to_redis)
        self.leases = LeaseGate(leases, at.clock, lease_ttl_s=LEASE_TTL_S, record=record)
        self.database = DatabaseGate(store, at.clock, probe_interval_s=1.0, paused=lambda: None, record=record)
        self.pipeline = Pipeline(
            Parts(
                app=self.app,
                store=store,
                crash_log=MemoryCrashLog(at.postgres, instance=token, token=token, call=to_postgres),
                leases=self.leases,
                database=self.database,
                recent=Recent(token, at.clock),
                exclusive_run=ExclusiveRun(),
                options=RunOptions(clock=at.clock, timeout_s=60.0),
                limits=AttemptLimits(handler_concurrency=concurrency),
            ),
            lease_ttl_s=LEASE_TTL_S,
            emitted=lambda: None,
            dead_lettered=self._dead_lettered,
            record=record,
        )

    def _dead_lettered(self) -> None:
        self.dead_lettered += 1

    def receive(self, on: Track, *ids: str, type: str = "tick", size: int = RANGE_MAX_EVENTS) -> list[Range]:
        """Receive a frame; the key of an event is the first letter of its id."""
        made = receive_ranges(on, frame(on.watermark.received + 1, *ids, type=type), size)
        self.pipeline.receive(made)
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        of = self.pipeline
        loops = [of.watch_loop(), of.record_loop(), of.compare_loop(), of.renew_loop(), self.leases.heartbeat_loop()]
        tasks = [asyncio.create_task(loop) for loop in (*loops, *of.claim_loops(), *of.work_loops())]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancel_all(tasks)


def frame(first: int, *ids: str, type: str) -> bytes:
    bodies = [Event.new(type, id=id_, subject=id_[0]).to_json() for id_ in ids]
    return events_frame(first, 1_700_000_000_000_000, b"[" + b",".join(bodies) + b"]")


@in_virtual_time
async def test_a_range_gets_its_done_marker_when_all_its_events_have_ended(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at, concurrency=1), track()
    async with member.running():
        first, second = member.receive(on, "a", "b", "c", size=2)
        await clock.sleep(1)
        assert member.app.handled == ["a", "b", "c"]
    assert (on.watermark.value, member.pipeline.in_flight) == (3, 0)
    assert (await at.other_leases.peek([first, second])).ended == [first, second]


@in_virtual_time
async def test_a_range_leased_elsewhere_ends_with_its_done_marker(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    theirs = receive_ranges(track(), frame(1, "a", "b", type="tick"))
    await at.other_leases.claim(theirs)
    async with member.running():
        member.receive(on, "a", "b")
        await clock.sleep(2)
        assert member.pipeline.in_flight == 2
        await at.other_leases.mark_done(theirs)
        await clock.sleep(2)
    assert (on.watermark.value, member.app.handled) == (2, [])
    assert [x for x in member.telemetry_events if isinstance(x, Duplicates)] == [
        Duplicates(2, "a", "b", elsewhere=True)
    ]


@in_virtual_time
async def test_the_ranges_of_a_dead_owner_are_taken_over(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    await at.other_leases.claim(receive_ranges(track(), frame(1, "a", "b", type="tick")))
    async with member.running():
        (each,) = member.receive(on, "a", "b")
        await clock.sleep(8)
    assert (on.watermark.value, member.app.handled, each.takeovers) == (2, ["a", "b"], 1)
    assert TakenOver(2, "b") in member.telemetry_events


@in_virtual_time
async def test_while_redis_is_away_ranges_are_handled_without_leases(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.to_redis.error = REFUSED
    member, on = Member(at), track()
    async with member.running():
        (each,) = member.receive(on, "a", "b")
        await clock.sleep(1)
    assert (on.watermark.value, each.leased, at.redis.leases) == (2, False, {})


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_released_range_is_claimed_again_and_each_event_attempted_once(concurrency: int) -> None:
    @in_virtual_time
    async def run(clock: VirtualClock) -> None:
        at = MemoryServers(clock)
        member, on, ids = Member(at, concurrency=concurrency), track(), "abcdefghijkl"
        member.app.may_end.clear()
        async with member.running():
            (each,) = member.receive(on, *ids)
            await clock.sleep(1)
            calls = at.to_redis.calls
            await member.pipeline.release_all()
            assert (each.leased, at.to_redis.calls) == (False, calls + 1)
            await clock.sleep(1)
            member.app.may_end.set()
            await clock.sleep(1)
        assert (on.watermark.value, sorted(member.app.handled)) == (len(ids), list(ids))
        assert (await at.other_leases.peek([each])).ended == [each]

    run()


@in_virtual_time
async def test_a_duplicate_in_a_range_leased_elsewhere_does_not_block_ours(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    await at.other_leases.claim(receive_ranges(track(), frame(1, "a", type="tick")))
    async with member.running():
        theirs, ours = member.receive(on, "a", "a", size=1)
        await clock.sleep(1)
        assert (theirs.unended, ours.unended, member.app.handled) == (1, 0, ["a"])


@in_virtual_time
async def test_a_second_arrival_is_compared_with_the_row_of_the_first(clock: VirtualClock) -> None:
    member, on = Member(MemoryServers(clock)), track()
    async with member.running():
        member.receive(on, "a", "a", "a")
        await clock.sleep(1)
    assert (on.watermark.value, member.app.handled) == (3, ["a"])
    assert [x for x in member.telemetry_events if isinstance(x, Duplicates)] == [Duplicates(2, "a", "a", {"tick": 2})]


@in_virtual_time
async def test_a_second_arrival_that_ends_elsewhere_is_not_compared(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    first, second = member.receive(on, "a", "a", size=1)
    member.pipeline._acquire([first, second])
    member.pipeline._after_commit(Ended(first.arrivals[:], [Outcome.STORED]))
    await member.pipeline.release_all()
    member.pipeline.end_elsewhere([second])
    calls = at.to_postgres.calls
    await member.pipeline.compare()
    assert (at.to_postgres.calls, member.pipeline.in_flight) == (calls, 0)


@in_virtual_time
async def test_events_of_a_superseded_position_are_dropped_and_count_as_memory_no_longer(clock: VirtualClock) -> None:
    member, on = Member(MemoryServers(clock), concurrency=1), track()
    member.app.may_end.clear()
    async with member.running():
        member.receive(on, "a", "b", "c", "b")
        await clock.sleep(1)
        on.abandon()
        assert on.abandoned_bytes > 0
        member.app.may_end.set()
        await clock.sleep(1)
    assert (member.app.handled, on.abandoned_bytes, member.pipeline.in_flight) == (["a"], 0, 0)


@in_virtual_time
async def test_an_event_whose_predecessor_never_ends_is_dropped_with_its_position(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    await at.other_leases.claim(receive_ranges(track(), frame(1, "a1", type="ordered")))
    at.redis.counters["b"] = (1, clock.monotonic_s() + 60)
    async with member.running():
        member.receive(on, "a1", "a2", type="ordered", size=1)
        await clock.sleep(1)
        on.abandon()
        await clock.sleep(1)
    assert (member.app.handled, on.abandoned_bytes, on.followers) == ([], 0, {})


@in_virtual_time
async def test_a_range_of_a_superseded_position_gets_no_done_marker(clock: VirtualClock) -> None:
    """Rows of its first events may be lost: its successor attempts all again."""
    at = MemoryServers(clock)
    member, on = Member(at, concurrency=1), track()
    async with member.running():
        member.app.may_end.clear()
        ranges = member.receive(on, "a")
        await clock.sleep(1)
        on.abandon()
        member.app.may_end.set()
        await clock.sleep(1)
    assert member.app.handled == ["a"]
    assert (await at.other_leases.peek(ranges)).ended == []


@in_virtual_time
async def test_without_a_free_thread_a_range_is_released_and_spends_no_attempt(clock: VirtualClock) -> None:
    member, on = Member(MemoryServers(clock)), track()
    member.app.has_threads = False
    async with member.running():
        (each,) = member.receive(on, "a", type="threaded")
        (arrival,) = each.arrivals
        await clock.sleep(0.5)
        assert not each.leased  # another listener may have room
        member.receive(on, "b")
        await clock.sleep(5)
        assert (arrival.attempts, arrival.terminal_error, member.app.handled) == (0, None, ["b"])
        arrival.terminal_error = ValueError("dead-lettering needs no thread")
        await clock.sleep(5)
    assert on.watermark.value == 2
    assert len([x for x in member.telemetry_events if isinstance(x, HandlersBlocked)]) == 1


@in_virtual_time
async def test_a_dead_letter_is_reported(clock: VirtualClock) -> None:
    member, on = Member(MemoryServers(clock)), track()
    async with member.running():
        member.receive(on, "a", type="rejected")
        await clock.sleep(1)
    assert (on.watermark.value, member.dead_lettered) == (1, 1)
    assert [x for x in member.telemetry_events if isinstance(x, DeadLettered)] == [
        DeadLettered("a", "Reject: no", "rejected", "rejected")
    ]


@pytest.mark.parametrize(("takeovers", "batches"), [(1, [3]), (2, [1, 1, 1])])
def test_batched_events_run_one_by_one_once_they_are_quarantined(takeovers: int, batches: list[int]) -> None:
    @in_virtual_time
    async def run(clock: VirtualClock) -> None:
        at = MemoryServers(clock)
        (theirs,) = receive_ranges(track(), frame(1, "a", "b", "c", type="batch"))
        for _ in range(takeovers):
            await at.other_leases.claim([theirs])
            await at.other_leases.take_over([theirs], "b", died=True)
        member = Member(at)
        async with member.running():
            member.receive(track(), "a", "b", "c", type="batch")
            await clock.sleep(1)
        assert member.app.batches == batches

    run()


@in_virtual_time
async def test_a_drain_finishes_claimed_events_and_releases_the_rest(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at, concurrency=1), track()
    member.app.may_end.clear()
    async with member.running():
        ended, left = member.receive(on, "a", "b", size=1)
        await clock.sleep(1)
        left.acquired = False
        finish = asyncio.create_task(member.pipeline.finish_claimed())
        await clock.sleep(1)
        assert not finish.done()
        member.app.may_end.set()
        await finish
    assert (member.app.handled, await member.pipeline.hand_over()) == (["a"], 1)
    found = await at.other_leases.peek([ended, left])
    assert (found.ended, found.free) == ([ended], [left])


@pytest.mark.parametrize("seed", range(60))
def test_two_listeners_keep_the_order_of_each_journal_despite_duplicates_and_rereads(seed: int) -> None:
    draw = Random(seed)

    @in_virtual_time
    async def run(clock: VirtualClock) -> None:
        async def call(act: Act) -> Any:
            await clock.sleep(draw.random() * draw.choice((0.001, 0.1)))
            return await at_once(act)

        at = MemoryServers(clock)
        members = [Member(at, token, call, concurrency=2) for token in "ab"]
        handled: list[str] = []
        for member in members:
            member.app.handled = handled
        # Of one journal, ids of a key ascend, except repeated ones.
        ids = {
            name: [f"{draw.choice('xy')}{name}{n // 2 if draw.random() < 0.3 else n}" for n in range(12)]
            for name in "jk"
        }
        for journal in ids.values():
            journal[:] = [next((x for x in journal if x[1:] == id_[1:]), id_) for id_ in journal]
        tracks = {(member, name): Track(name, [Epoch(name, 1)], 0, Credit()) for member in members for name in ids}
        rereads = 2
        async with members[0].running(), members[1].running():
            while left := [key for key, on in tracks.items() if on.watermark.received < 12]:
                key = draw.choice(left)
                member, name = key
                on = tracks[key]
                begin = on.watermark.received
                member.receive(on, *ids[name][begin : begin + draw.randint(1, 4)], type="ordered", size=2)
                await clock.sleep(draw.random() * draw.choice((0.01, 1.0)))
                if rereads and draw.random() < 0.1:
                    rereads -= 1
                    on.abandon()
                    tracks[key] = Track(name, [Epoch(name, 1)], 0, Credit())
            async with asyncio.timeout(600):
                while any(member.pipeline.in_flight for member in members):
                    await clock.sleep(1)
        assert Counter(handled) == Counter({id_ for journal in ids.values() for id_ in journal})
        for journal in ids.values():
            for letter in "xy":
                ran = [id_ for id_ in handled if id_ in journal and id_[0] == letter]
                assert ran == sorted(ran, key=journal.index)

    run()


@in_virtual_time
async def test_an_ordered_event_does_not_wait_for_the_rest_of_the_range_before_it(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    theirs, _ = receive_ranges(track(), frame(1, "a1", "b1", "a2", type="ordered"), 2)
    await at.other_leases.claim([theirs])
    at.redis.counters["b"] = (1, clock.monotonic_s() + 60)
    async with member.running():
        member.receive(on, "a1", "b1", "a2", type="ordered", size=2)
        await clock.sleep(1)
        assert member.app.handled == []
        await MemoryEvents(at.postgres, instance="b", token="b").insert(theirs.arrivals[:1])
        await clock.sleep(2)
    assert (member.app.handled, on.watermark.value) == (["a2"], 0)


@in_virtual_time
async def test_ranges_that_a_replaced_server_refuses_are_read_again(clock: VirtualClock) -> None:
    member = Member(MemoryServers(clock))
    on = Track("journal", [Epoch("e1", 1)], 0, Credit(), incarnation="that of another server")
    async with member.running():
        member.receive(on, "a")
        await clock.sleep(2)
    assert (member.app.handled, on.is_superseded, on.watermark.value) == (["a"], True, 0)


@in_virtual_time
async def test_a_drain_releases_the_leases_of_ranges_that_could_not_be_recorded(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    member, on = Member(at), track()
    async with member.running():
        ranges = member.receive(on, "a")
        while ranges[0].unended:
            await clock.sleep(0.01)
        at.to_postgres.error = REFUSED
        await member.pipeline.hand_over()
    assert (await at.other_leases.peek(ranges)).free == ranges


@in_virtual_time
async def test_no_event_elsewhere_ends_before_the_one_before_it(clock: VirtualClock) -> None:
    """a2 has a row of another place; the second arrival of a1 waits for the first all the same."""
    at = MemoryServers(clock)
    member, on = Member(at), track()
    theirs, _ = receive_ranges(track(), frame(1, "a1", "a2", "a1", type="ordered"), 2)
    await at.other_leases.claim([theirs])
    await MemoryEvents(at.postgres, instance="b", token="b").insert(theirs.arrivals[1:])
    at.redis.counters["b"] = (1, clock.monotonic_s() + 60)
    async with member.running():
        first, second = member.receive(on, "a1", "a2", "a1", type="ordered", size=2)
        await clock.sleep(3)
        assert (first.unended, second.unended, second.arrivals[0].waits) == (2, 1, True)
        await clock.sleep(30)
    assert (member.app.handled, on.watermark.value) == (["a1"], 3)


@in_virtual_time
async def test_an_event_may_end_while_it_is_compared(clock: VirtualClock) -> None:
    on = track()
    (of,) = receive_ranges(on, frame(1, "a", type="tick"))

    async def call(act: Act) -> Any:
        on.end(of.arrivals)
        return await at_once(act)

    member = Member(MemoryServers(clock), call=call)
    assert await member.pipeline._compared(of.arrivals) == [(of.arrivals[0], None)]
