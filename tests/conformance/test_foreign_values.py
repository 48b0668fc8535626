"""A foreign value under a key of Oncecast in Redis counts as no value."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio as redis

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import Unavailable
from oncecast.core.telemetry import ForeignValues, TelemetryEvent
from oncecast.listener.dependencies.gates import LeaseGate
from oncecast.stores.redis import RedisLeases
from tests.support.arrivals import ranges

A, B = "a" * 16, "b" * 16
Write = Callable[[redis.Redis, str], Awaitable[object]]

FOREIGN: dict[str, Write] = {
    "an empty string": lambda r, key: r.set(key, b""),
    "text": lambda r, key: r.set(key, "locked by worker 7"),
    "binary": lambda r, key: r.set(key, bytes(range(256))),
    "a huge number": lambda r, key: r.set(key, "9" * 10_000),
    "a count without end": lambda r, key: r.set(key, "!" + "9" * 30),
    "a count that is none": lambda r, key: r.set(key, "!x"),
    "a holder with a count that is none": lambda r, key: r.set(key, f"{A}*x"),
    "a holder with a count without end": lambda r, key: r.set(key, f"{A}*" + "9" * 400),
    "a mark with more behind it": lambda r, key: r.set(key, "=\n"),
    "a list": lambda r, key: r.rpush(key, "x"),
    "a hash": lambda r, key: r.hset(key, "x", "y"),
    "a set": lambda r, key: r.sadd(key, "x"),
    "a stream": lambda r, key: r.xadd(key, {"x": "y"}),
}


class Redis:
    """Leases of two holders, and a client of somebody else."""

    def __init__(self, url: str, group: str) -> None:
        self.a, self.b = (
            RedisLeases(url, group=group, token=token, lease_ttl_s=30.0, mark_ttl_s=15.0) for token in (A, B)
        )
        self.client = redis.Redis.from_url(url)
        self.heartbeats = f"oncecast:{{{group}}}:h:"


@pytest.fixture
async def server(redis_url: str, schema: str) -> AsyncIterator[Redis]:
    server = Redis(redis_url, schema)
    yield server
    for one in (server.a, server.b):
        await one.close()
    await server.client.aclose()


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_range_under_whose_key_a_foreign_value_stands_is_claimed_by_one_and_the_value_is_overwritten(
    server: Redis, write: Write
) -> None:
    (each,) = batch = ranges(1)
    (key,) = server.a._keys(batch)
    await write(server.client, key)
    assert (await server.a.peek(batch)).free == batch
    claims = await server.a.claim(batch)
    assert (claims.acquired, [overwritten for overwritten, _ in claims.foreign]) == (batch, [key])
    assert await server.client.get(key) == A.encode()
    assert 0 < await server.client.pttl(key) <= 30_000
    again = await server.b.claim(ranges(1))
    assert ([owner for _, owner in again.leased_elsewhere], again.foreign) == ([A], [])
    assert each.takeovers == 0


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN.keys())
async def test_no_call_fails_of_a_foreign_value_that_comes_later(server: Redis, write: Write) -> None:
    batch = ranges(3)
    keys = server.a._keys(batch)
    await server.a.claim(batch)
    await server.client.delete(keys[1])
    await write(server.client, keys[1])
    await server.a.renew(batch)
    await server.a.reclaim(batch)
    await server.client.delete(keys[1])
    await write(server.client, keys[1])
    await server.b.take_over(batch, A, died=True)
    await server.a.release(batch)
    assert set((await server.b.claim(batch)).acquired) == set(batch)
    await server.b.mark_done(batch)
    assert (await server.a.claim(batch)).ended == batch


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_heartbeat_that_is_not_a_number_counts_as_missing_and_the_next_one_overwrites_it(
    server: Redis, write: Write
) -> None:
    await write(server.client, server.heartbeats + A)
    assert await server.b.counters([A]) == {A: None}
    await server.a.heartbeat()
    assert (await server.b.counters([A]))[A] is not None


async def test_foreign_values_are_warned_of_once_and_redis_stays_up(server: Redis) -> None:
    telemetry_events: list[TelemetryEvent] = []
    gate = LeaseGate(server.a, SYSTEM_CLOCK, lease_ttl_s=30.0, record=telemetry_events.append)
    batch = ranges(3)
    for key in server.a._keys(batch)[:2]:
        await server.client.set(key, b"")
    assert set((await gate.claim(batch)).acquired) == set(batch)
    await gate.claim(batch)
    (warned,) = telemetry_events
    assert isinstance(warned, ForeignValues)
    assert (warned.count, warned.key, warned.value) == (2, server.a._keys(batch)[0], "''")
    assert gate.is_up


async def test_an_answer_of_another_shape_is_that_redis_is_unavailable(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(**_: object) -> object:
        return [b"x"]

    monkeypatch.setattr(server.a, "_claim", answer)
    with pytest.raises(Unavailable, match="2 values"):
        await server.a.claim(ranges(2))
