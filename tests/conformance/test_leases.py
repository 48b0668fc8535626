"""What every lease store must do: say who handles what for now, and touch only what is one's own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import urlsplit

import msgspec
import pytest

from oncecast.chaos.links import Link
from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival, JournalPosition
from oncecast.core.leases import Claims
from oncecast.core.ports import Leases
from oncecast.stores.redis import RedisLeases
from oncecast.testing.memory import MemoryLeases, MemoryRedis

A, B = "a" * 16, "b" * 16


def arrivals(*ids: str, offset: int = 1) -> list[Arrival]:
    return [
        Arrival(
            track=JournalPosition(),
            offset=offset + n,
            at_us=0,
            id=name,
            source="/s",
            type="t",
            raw=msgspec.Raw(b"{}"),
            cost_bytes=0,
            epoch="e1",
            journal="j",
        )
        for n, name in enumerate(ids)
    ]


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


async def claim(leases: Leases, batch: Sequence[Arrival]) -> Claims:
    """As a listener does, which notes the counts on its events."""
    claims = await leases.claim(batch)
    for arrival, takeovers in claims.takeovers:
        arrival.takeovers = takeovers
    return claims


async def test_an_event_is_claimed_by_the_first_and_taken_for_the_second(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    batch = arrivals("1", "2", "3")
    assert (await a.claim(batch[:2])).mine == batch[:2]
    claims = await b.claim(batch)
    assert [(x.id, holder) for x, holder in claims.taken] == [("1", A), ("2", A)]
    assert claims.mine == batch[2:]
    assert (await a.claim(batch[:1])).mine == batch[:1]  # one's own stays one's own


async def test_a_mark_ends_only_the_place_that_it_names(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    batch = arrivals("1", "2")
    await a.claim(batch)
    await a.settle(batch)
    assert (await b.claim(batch)).ended == batch
    again = arrivals("1", "2", offset=7)
    assert (await b.claim(again)).elsewhere == again


async def test_a_mark_that_proves_nothing_is_taken_but_no_other_and_no_lease(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    marked, elsewhere, _, free = batch = arrivals("marked", "elsewhere", "leased", "free")
    await a.claim(batch[:3])
    await a.settle([marked, *arrivals("elsewhere", offset=9)])
    claims = await b.reclaim(batch)
    assert (claims.mine, claims.elsewhere, claims.ended) == ([marked, free], [elsewhere], [])
    assert [x.id for x, _ in claims.taken] == ["leased"]
    assert [x.id for x, _ in (await a.claim([marked])).taken] == ["marked"]


async def test_looking_takes_nothing(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    batch = arrivals("1", "2")
    await a.claim(batch[:1])
    found = await b.peek(batch)
    assert [(x.id, holder) for x, holder in found.taken] == [("1", A)]
    assert found.free == batch[1:]
    assert (await a.claim(batch)).mine == batch


async def test_release_and_settle_touch_only_ones_own(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    batch = arrivals("1", "2")
    await a.claim(batch)
    assert await b.release(batch) == 0
    await b.settle(batch)
    assert [holder for _, holder in (await b.peek(batch)).taken] == [A, A]
    assert await b.take_over(batch[:1], A, died=True) == 1  # a takeover names the dead owner
    assert (await b.peek(batch)).free == batch[:1]


async def test_a_counter_moves_with_each_beat(leases_of: LeasesOf) -> None:
    a, b = leases_of(A), leases_of(B)
    assert await b.counters([A]) == {A: None}
    seen = [await counter_after_beat(a, b) for _ in range(3)]
    assert len(set(seen)) == 3
    assert None not in seen
    assert (await b.counters([A, B]))[B] is None


async def counter_after_beat(holder: Leases, observer: Leases) -> int | None:
    await holder.heartbeat()
    return (await observer.counters([A]))[A]


async def test_an_event_that_is_taken_from_a_holder_that_may_live_is_free_and_charged_with_nothing(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    (event,) = batch = arrivals("1")
    await claim(a, batch)
    await a.take_over(batch, A, died=True)
    for holder in (A, B):
        await claim(leases_of(holder), batch)
        assert await b.take_over(batch, holder, died=False) == 1
    assert (await claim(b, batch)).mine == batch
    assert event.takeovers == 1


async def test_renewal_prolongs_only_ones_own(redis_url: str, schema: str) -> None:
    brief = RedisLeases(redis_url, group=schema, token=A, lease_ttl_s=60, mark_ttl_s=15)
    other = RedisLeases(redis_url, group=schema, token=B, lease_ttl_s=1, mark_ttl_s=15)
    batch = arrivals("1")
    await brief.claim(batch)
    await other.renew(batch)
    ttl_ms = await brief._redis.pttl(brief._keys(batch)[0])
    assert ttl_ms > 30_000
    await brief.close()
    await other.close()


async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    leases = RedisLeases("redis://127.0.0.1:1", group="g", token=A, lease_ttl_s=30, mark_ttl_s=15)
    with pytest.raises(Unavailable, match="Redis"):
        await leases.claim(arrivals("1"))
    await leases.close()


async def test_each_rescue_is_counted_until_the_event_has_ended_and_a_hand_back_is_none(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    [event] = batch = arrivals("1")
    await claim(a, batch)
    assert await b.take_over(batch, A, died=True) == 1
    assert (await b.peek(batch)).free == batch
    await claim(b, batch)
    assert event.takeovers == 1
    assert await b.release(batch) == 1
    await claim(a, batch)
    assert event.takeovers == 1
    assert [holder for _, holder in (await b.peek(batch)).taken] == [A]
    assert await b.take_over(batch, A, died=True) == 1
    await claim(b, batch)
    assert event.takeovers == 2
    await b.renew(batch)
    await b.settle(batch)
    assert (await a.peek(batch)).ended == batch


async def test_a_takeover_of_a_quarantined_event_counts_only_if_it_was_running(
    leases_of: LeasesOf,
) -> None:
    a, b = leases_of(A), leases_of(B)
    [event] = batch = arrivals("1")
    for holder, other in ((a, b), (b, a)):
        await claim(holder, batch)
        await other.take_over(batch, holder.token, died=True)
    await claim(a, batch)
    assert event.takeovers == 2
    await b.take_over(batch, A, died=True)
    await claim(a, batch)
    assert event.takeovers == 2, "its holder died of something else"
    await a.begin_isolated(event, True)
    assert (await claim(a, batch)).mine == batch
    await b.take_over(batch, A, died=True)
    await claim(b, batch)
    assert event.takeovers == 3
    await b.begin_isolated(event, True)
    await b.begin_isolated(event, False)
    await a.take_over(batch, B, died=True)
    await claim(a, batch)
    assert event.takeovers == 3, "its attempt was over"
    await b.begin_isolated(event, True)
    assert [holder for _, holder in (await b.peek(batch)).taken] == [A], "another's lease stays as it is"


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
