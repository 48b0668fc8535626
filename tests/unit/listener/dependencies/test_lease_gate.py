"""The gate in front of Redis: while Redis is away, a listener works as if it had every lease."""

from __future__ import annotations

from collections.abc import Sequence

from oncecast.core.errors import Unavailable
from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.leases import Claims
from oncecast.core.ranges import Range
from oncecast.core.telemetry import DependencyLost, DependencyReady, DependencyTried, ForeignValues
from oncecast.listener.dependencies.gates import CALL_MAX_RANGES, HEARTBEAT_DEADLINE_S, WARN_INTERVAL_S
from oncecast.testing.memory import MemoryLeases
from tests.simulation.clock import VirtualClock
from tests.support.arrivals import ranges, track
from tests.support.memory_servers import LEASE_TTL_S, REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time, running

LOST = DependencyLost("redis", "connection refused")
TRIED, READY = DependencyTried("redis"), DependencyReady("redis")


@in_virtual_time
async def test_a_claimed_range_is_leased_and_another_listener_does_not_get_it(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(3)
    await at.other_leases.claim(ranges(1))
    claims = await at.leases.claim(batch)
    assert (claims.acquired, claims.leased_elsewhere) == (batch[1:], [(batch[0], "b")])
    assert [each.leased for each in batch] == [False, True, True]
    assert (await at.other_leases.claim(batch[1:])).acquired == []


@in_virtual_time
async def test_while_redis_is_away_every_range_is_claimed_without_a_lease(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.to_redis.error = REFUSED
    batch = ranges(3)
    assert (await at.leases.claim(batch)).acquired == batch
    assert not any(each.leased for each in batch)
    assert (at.leases.is_up, at.leases.fault) == (False, "connection refused")


@in_virtual_time
async def test_an_outage_is_reported_once_and_nothing_is_asked_until_the_next_heartbeat(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(2)
    await at.leases.claim(batch)
    at.to_redis.error = REFUSED
    asked = at.to_redis.calls
    for _ in range(3):
        await at.leases.claim(batch)
        await at.leases.peek(batch)
        await at.leases.mark_done(batch)
        await at.leases.counters(["b"])
    assert (at.to_redis.calls - asked, at.telemetry_events) == (1, [LOST])


@in_virtual_time
async def test_a_call_that_fails_ends_the_calls_for_the_rest_of_a_batch(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(2 * CALL_MAX_RANGES + 1)
    await at.leases.claim(batch)
    asked = at.to_redis.calls
    at.to_redis.error = REFUSED
    await at.leases.mark_done(batch)
    assert at.to_redis.calls - asked == 1


@in_virtual_time
async def test_no_call_is_about_more_than_a_thousand_ranges(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(2 * CALL_MAX_RANGES + 1)
    assert (await at.leases.peek(batch)).free == batch
    assert at.to_redis.calls == 3


@in_virtual_time
async def test_a_range_that_the_process_before_may_have_died_of_is_quarantined_while_redis_is_away(
    clock: VirtualClock,
) -> None:
    at = MemoryServers(clock)
    at.to_redis.error = REFUSED
    suspected, other = ranges(2)
    suspected.suspected = True
    await at.leases.claim([suspected, other])
    assert (suspected.takeovers, other.takeovers) == (QUARANTINE_AFTER_TAKEOVERS, 0)


@in_virtual_time
async def test_a_range_with_a_done_marker_has_ended_unless_its_rows_may_be_lost(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    marked = ranges(2)
    await at.other_leases.claim(marked)
    await at.other_leases.mark_done(marked)
    read_again = track()
    read_again.distrusted_to = 1
    lost, kept = ranges(2, on=read_again)
    claims = await at.leases.claim([lost, kept])
    assert (claims.acquired, claims.ended) == ([lost], [kept])


@in_virtual_time
async def test_a_leased_range_can_be_claimed_while_redis_is_away(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(1)
    await at.other_leases.claim(batch)
    assert (await at.leases.peek(batch)).leased_elsewhere == [(batch[0], "b")]
    at.to_redis.error = REFUSED
    assert (await at.leases.peek(batch)).free == batch


@in_virtual_time
async def test_released_leases_are_free_for_another_listener(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(3)
    await at.leases.claim(batch[:2])
    await at.leases.release(batch)
    assert not any(each.leased for each in batch)
    assert (await at.other_leases.claim(batch)).acquired == batch


@in_virtual_time
async def test_leases_that_could_not_be_released_in_redis_are_no_longer_held(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(2)
    await at.leases.claim(batch)
    at.to_redis.error = REFUSED
    await at.leases.release(batch)
    assert not any(each.leased for each in batch)


@in_virtual_time
async def test_a_lease_is_renewed_once_a_third_of_its_time_is_over(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(1)
    await at.leases.claim(batch)
    asked = at.to_redis.calls
    await clock.sleep(LEASE_TTL_S / 3 - 0.1)
    await at.leases.renew(batch)
    assert at.to_redis.calls == asked
    await clock.sleep(0.1)
    await at.leases.renew(batch)
    await at.leases.renew(batch)
    assert at.to_redis.calls == asked + 1
    await clock.sleep(LEASE_TTL_S - 0.1)
    assert (await at.other_leases.claim(batch)).acquired == []


@in_virtual_time
async def test_a_takeover_frees_the_leases_of_a_dead_owner_and_counts_its_death(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    batch = ranges(1)
    await at.other_leases.claim(batch)
    await at.leases.take_over(batch, "b", died=True)
    assert ((await at.leases.claim(batch)).acquired, batch[0].takeovers) == (batch, 1)


@in_virtual_time
async def test_no_listener_is_declared_dead_while_redis_is_down(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    await at.other_leases.heartbeat()
    assert await at.leases.counters(["b", "c"]) == {"b": 1, "c": None}
    at.to_redis.error = REFUSED
    assert await at.leases.counters(["b"]) is None
    assert await at.leases.counters(["b"]) is None


class OverwrittenLeases(MemoryLeases):
    """Finds a value that Oncecast did not write below every key."""

    async def claim(self, ranges: Sequence[Range]) -> Claims:
        claims = await super().claim(ranges)
        claims.foreign = [(each.place, b"\xffx") for each in ranges]
        return claims


@in_virtual_time
async def test_warnings_about_foreign_values_are_ten_seconds_apart(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    gate = at.lease_gate(OverwrittenLeases)
    await gate.claim(ranges(3))
    await gate.claim(ranges(2))
    await clock.sleep(WARN_INTERVAL_S)
    await gate.claim(ranges(1))
    assert at.telemetry_events == [ForeignValues(3, "e1:1-1", r"'\xffx'"), ForeignValues(1, "e1:1-1", r"'\xffx'")]


# --- heartbeat ----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_heartbeat_moves_every_second_and_redis_is_reported_ready_once(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    async with running(at.leases.heartbeat_loop()):
        await clock.sleep(3.5)
    assert await at.other_leases.counters(["a"]) == {"a": 4}
    assert at.telemetry_events == [TRIED, READY]


@in_virtual_time
async def test_a_heartbeat_without_an_answer_shows_that_redis_is_away(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    async with running(at.leases.heartbeat_loop()):
        await clock.sleep(0.5)
        at.to_redis.is_silent = True
        await clock.sleep(0.6 + HEARTBEAT_DEADLINE_S)
        assert not at.leases.is_up
        assert at.telemetry_events[-1] == DependencyLost("redis", "Redis: no answer within 1.5 s")


@in_virtual_time
async def test_leases_are_used_again_as_soon_as_a_heartbeat_gets_through(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.to_redis.error = Unavailable("connection refused")
    async with running(at.leases.heartbeat_loop()):
        await clock.sleep(5.5)
        at.to_redis.error = None
        await clock.sleep(1.0)
    assert at.telemetry_events == [TRIED, LOST, TRIED, READY]
    assert (at.leases.is_up, at.leases.fault) == (True, None)
    batch = ranges(1)
    await at.leases.claim(batch)
    assert batch[0].leased
