"""What every lease store must do: say which listener has which range, and touch only what is one's own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import urlsplit

import pytest

from oncecast.chaos.links import Link
from oncecast.core.errors import Unavailable
from oncecast.core.leases import Claims
from oncecast.core.ports import Leases
from oncecast.core.ranges import Range
from oncecast.stores.redis import RedisLeases
from oncecast.testing.memory import MemoryLeases, MemoryRedis
from tests.support.arrivals import ranges

A, B = "a" * 16, "b" * 16
LeasesOf = Callable[[str], Leases]


@pytest.fixture(params=["redis", "memory"])
async def leases_of(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[LeasesOf]:
    made: list[Leases] = []
    server = MemoryRedis(time.monotonic)

    def make(token: str) -> Leases:
        if request.param == "memory":
            made.append(MemoryLeases(server, token=token, lease_ttl_s=30.0, mark_ttl_s=15.0))
        else:
            url = request.getfixturevalue("redis_url")
            made.append(RedisLeases(url, group=schema, token=token, lease_ttl_s=30.0, mark_ttl_s=15.0))
        return made[-1]

    yield make
    for leases in made:
        await leases.close()


async def claim(leases: Leases, batch: Sequence[Range]) -> Claims:
    """As a listener does, which notes the counts on its ranges."""
    claims = await leases.claim(batch)
    for each, takeovers in claims.takeovers:
        each.takeovers = takeovers
    return claims


async def test_a_range_is_acquired_by_the_first_and_leased_elsewhere_for_the_second(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    first, second, third = batch = ranges(3, size=10)
    assert (await a.claim(batch[:2])).acquired == [first, second]
    claims = await b.claim(ranges(3, size=10))
    assert [(each.first, owner) for each, owner in claims.leased_elsewhere] == [(1, A), (11, A)]
    assert [each.first for each in claims.acquired] == [third.first]
    assert (await a.claim([first])).acquired == [first]  # one's own stays one's own


async def test_a_done_marker_ends_only_the_range_that_it_names(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    batch = ranges(2, size=4)
    await a.claim(batch)
    await a.mark_done(batch)
    assert (await b.claim(batch)).ended == batch
    (longer,), (later,), (of_another_epoch,) = ranges(1, size=5), ranges(1, first=9), ranges(1, size=4)
    of_another_epoch.epoch = "e2"
    others = [longer, later, of_another_epoch]
    assert (await b.claim(others)).acquired == others


async def test_a_range_with_a_done_marker_can_be_reclaimed_but_no_leased_one(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    marked, leased, free = batch = ranges(3)
    await a.claim([marked, leased])
    await a.mark_done([marked])
    claims = await b.reclaim(batch)
    assert (claims.acquired, claims.ended, claims.leased_elsewhere) == ([marked, free], [], [(leased, A)])
    assert (await a.claim([marked])).leased_elsewhere == [(marked, B)]


async def test_looking_takes_nothing(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    leased, free = batch = ranges(2)
    await a.claim([leased])
    found = await b.peek(batch)
    assert (found.leased_elsewhere, found.free) == ([(leased, A)], [free])
    assert (await a.claim(batch)).acquired == batch


async def test_release_done_markers_and_takeover_touch_only_leases_of_the_owner_that_they_name(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    first, second = batch = ranges(2)
    await a.claim(batch)
    assert await b.release(batch) == 0
    assert await a.take_over(batch, B, died=True) == 0
    await b.mark_done(batch)
    assert (await b.peek(batch)).leased_elsewhere == [(first, A), (second, A)]
    assert await b.take_over([first], A, died=True) == 1
    assert (await b.peek(batch)).free == [first]


async def test_each_heartbeat_increments_the_counter(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    assert await b.counters([A]) == {A: None}
    seen = [await counter_after_heartbeat(a, b) for _ in range(3)]
    assert len(set(seen)) == 3
    assert None not in seen
    assert (await b.counters([A, B]))[B] is None


async def counter_after_heartbeat(holder: Leases, observer: Leases) -> int | None:
    await holder.heartbeat()
    return (await observer.counters([A]))[A]


async def test_a_range_that_is_taken_from_an_owner_that_may_live_is_free_and_its_count_stays(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    (each,) = batch = ranges(1)
    await claim(a, batch)
    await b.take_over(batch, A, died=False)
    await claim(a, batch)
    assert each.takeovers == 0
    await b.take_over(batch, A, died=True)
    for owner in (A, B):
        await claim(leases_of(owner), batch)
        assert await b.take_over(batch, owner, died=False) == 1
    assert (await claim(b, batch)).acquired == batch
    assert each.takeovers == 1


async def test_renewal_prolongs_only_ones_own(redis_url: str, schema: str) -> None:
    brief = RedisLeases(redis_url, group=schema, token=A, lease_ttl_s=60, mark_ttl_s=15)
    other = RedisLeases(redis_url, group=schema, token=B, lease_ttl_s=1, mark_ttl_s=15)
    batch = ranges(1)
    await brief.claim(batch)
    await other.renew(batch)
    ttl_ms = await brief._redis.pttl(brief._keys(batch)[0])
    assert ttl_ms > 30_000
    await brief.close()
    await other.close()


async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    leases = RedisLeases("redis://127.0.0.1:1", group="g", token=A, lease_ttl_s=30, mark_ttl_s=15)
    with pytest.raises(Unavailable, match="Redis"):
        await leases.claim(ranges(1))
    await leases.close()


async def test_each_death_of_an_owner_is_counted_until_the_range_has_ended_and_a_release_is_none(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    (each,) = batch = ranges(1)
    await claim(a, batch)
    assert await b.take_over(batch, A, died=True) == 1
    assert (await b.peek(batch)).free == batch
    await claim(b, batch)
    assert each.takeovers == 1
    assert await b.release(batch) == 1
    await claim(a, batch)
    assert each.takeovers == 1
    assert (await b.peek(batch)).leased_elsewhere == [(each, A)]
    assert await b.take_over(batch, A, died=True) == 1
    await claim(b, batch)
    assert each.takeovers == 2
    await b.renew(batch)
    await b.mark_done(batch)
    assert (await a.peek(batch)).ended == batch


def test_a_connection_that_closes_under_a_call_is_unavailable_on_every_loop(redis_url: str, schema: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def call_while_it_is_reset() -> None:
        url = urlsplit(redis_url)
        assert url.port is not None
        async with Link("listener>valkey", url.port) as link:
            through = redis_url.replace(f":{url.port}", f":{link.port}")
            leases = RedisLeases(through, group=schema, token=A, lease_ttl_s=30, mark_ttl_s=15)
            for turns in range(200):
                with contextlib.suppress(Unavailable):
                    await leases.heartbeat()
                link.inject("reset", "both")
                link.clear()
                for _ in range(turns % 7):
                    await asyncio.sleep(0)
            await leases.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(call_while_it_is_reset())
