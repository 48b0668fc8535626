"""Leases in Redis, with one Lua call per batch.

The key of a range, `oncecast:{GROUP}:r:EPOCH:FIRST-LAST`, has one of these values:

- `TOKEN`: a lease of the listener with this token
- `=`: a done marker, once all events of the range have ended
- `!N`: free after N takeovers from dead lease owners
- `TOKEN*N`: leased again after N takeovers

The key of a lease owner has its heartbeat counter. Any other value is a foreign value: it counts as none, and is
overwritten. All keys of a group share one hash tag, so that a cluster keeps them together.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Literal

import hiredis
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from oncecast.core.errors import Unavailable
from oncecast.core.leases import DONE, Claims, LeaseState, partition
from oncecast.core.ranges import Range
from oncecast.stores.redis.pulse import Pulse

CALL_DEADLINE_S = 2.0
SOCKET_TIMEOUT_S = 1.0
COUNTER_TTL_MS = 60_000
COUNT_TTL_MS = 600_000
FOREIGN_SHOWN_BYTES = 40
"""How much of a foreign value a warning shows. A foreign value is one that Oncecast did not write."""
_LEASE = re.compile(rb"([0-9a-f]{16})(?:\*(\d{1,6}))?|!(\d{1,6})")
_DONE = b"="
"""The values that a range's key may have."""
_COUNTER = re.compile(rb"\d{1,19}")


class RedisLeases:
    """The Leases of one listener in Redis."""

    def __init__(self, url: str, *, group: str, token: str, lease_ttl_s: float, mark_ttl_s: float) -> None:
        self._token = token
        self._own = token.encode()
        self._lease_ttl_ms = int(lease_ttl_s * 1000)
        self._mark_ttl_ms = int(mark_ttl_s * 1000)
        self._range_prefix = f"oncecast:{{{group}}}:r:"
        self._holder_prefix = f"oncecast:{{{group}}}:h:"
        # redis-py retries for over a minute by default; here a call fails fast, and the breaker decides.
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            # A Unix socket has no keep-alive.
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[redis.ConnectionError],
            protocol=2,
        )
        pool = self._redis.connection_pool
        self._pulse = Pulse(
            pool.connection_kwargs,
            is_tls=issubclass(pool.connection_class, redis.SSLConnection),
            key=self._holder_prefix + token,
            ttl_ms=COUNTER_TTL_MS,
        )
        pool.connection_class = _packing_in_c(pool.connection_class)
        self._claim = self._script("claim")
        self._overwrite = self._script("overwrite")
        self._mark_done = self._script("mark_done")
        self._free = self._script("free")
        self._renew = self._script("renew")

    def _script(self, name: str) -> redis.client.AsyncScript:  # type: ignore[name-defined]
        read, script = (
            resources.files(__package__).joinpath(f"lua/{part}.lua").read_text("utf-8") for part in ("read", name)
        )
        return self._redis.register_script(read + script)

    @property
    def token(self) -> str:
        """The token of this listener."""
        return self._token

    async def claim(self, ranges: Sequence[Range]) -> Claims:
        """Lease the free ranges, and overwrite foreign values."""
        return await self._lease(ranges)

    async def reclaim(self, ranges: Sequence[Range]) -> Claims:
        """Lease as `claim` does, also ranges with a done marker."""
        return await self._lease(ranges, "over_done")

    async def _lease(self, ranges: Sequence[Range], *over_done: str) -> Claims:
        keys = self._keys(ranges)
        async with _bounded():
            found = await self._claim(keys=keys, args=[self._own, self._lease_ttl_ms, *over_done])
        claims, foreign = self._partition(ranges, found)
        if foreign:
            values = [(keys[n], _shown(found[n])) for n in foreign]
            await self._take_foreign(keys, found, foreign)
            claims, _ = self._partition(ranges, found)  # PostgreSQL decides about values that changed once more
            claims.foreign = values
        claims.lease_free()
        return claims

    async def _take_foreign(self, keys: list[str], found: list[Any], foreign: list[int]) -> None:
        """Overwrite the values at the indexes `foreign` by leases of this listener, and update `found`."""
        seen = [found[n] if isinstance(found[n], bytes) else b"" for n in foreign]
        async with _bounded():
            values = await self._overwrite(
                keys=[keys[n] for n in foreign], args=[self._own, self._lease_ttl_ms, *seen]
            )
        for n, value in zip(foreign, _answers(values, len(foreign)), strict=True):
            found[n] = value

    async def peek(self, ranges: Sequence[Range]) -> Claims:
        """Read the leases without taking any."""
        async with _bounded():
            found = await self._redis.mget(self._keys(ranges))
        return self._partition(ranges, found)[0]

    def _partition(self, ranges: Sequence[Range], found: Any) -> tuple[Claims, list[int]]:
        """Return the meaning of the values, and the indexes of foreign values, whose ranges count as free."""
        read: list[LeaseState | Literal["done"] | None] = []
        foreign = []
        for n, value in enumerate(_answers(found, len(ranges))):
            state = None if value is None else _state(value)
            if value is not None and state is None:
                foreign.append(n)
            read.append(state)
        return partition(ranges, read, self._token), foreign

    async def mark_done(self, ranges: Sequence[Range]) -> None:
        """Replace this listener's leases by done markers."""
        async with _bounded():
            await self._mark_done(keys=self._keys(ranges), args=[self._own, self._mark_ttl_ms])

    async def release(self, ranges: Sequence[Range]) -> int:
        """Release this listener's leases; keep the counts of takeovers."""
        return await self._free_leases(ranges, self._token, died=False)

    async def take_over(self, ranges: Sequence[Range], owner: str, *, died: bool) -> int:
        """Free the leases of `owner`, and count the takeovers if it `died`."""
        return await self._free_leases(ranges, owner, died=died)

    async def _free_leases(self, ranges: Sequence[Range], owner: str, *, died: bool) -> int:
        async with _bounded():
            freed: int = await self._free(keys=self._keys(ranges), args=[owner, COUNT_TTL_MS, int(died)])
        return freed

    async def renew(self, ranges: Sequence[Range]) -> None:
        """Restart the expiry of this listener's leases."""
        async with _bounded():
            await self._renew(keys=self._keys(ranges), args=[self._own, self._lease_ttl_ms])

    async def heartbeat(self) -> None:
        """Change this listener's counter. The first call also starts the heartbeat process."""
        self._pulse.keep()
        async with _bounded():
            # Only a change counts, and no two of these values are the same on one machine.
            await self._redis.set(self._holder_prefix + self._token, time.monotonic_ns(), px=COUNTER_TTL_MS)

    async def counters(self, tokens: Sequence[str]) -> Mapping[str, int | None]:
        """Read the heartbeat counters of these lease owners."""
        if not tokens:
            return {}
        async with _bounded():
            found = await self._redis.mget([self._holder_prefix + token for token in tokens])
        return {token: _counter(n) for token, n in zip(tokens, _answers(found, len(tokens)), strict=True)}

    async def close(self) -> None:
        """End the heartbeat process, and close the connections."""
        self._pulse.end()
        async with _bounded():
            await self._redis.aclose()

    def _keys(self, ranges: Sequence[Range]) -> list[str]:
        prefix = self._range_prefix
        return [f"{prefix}{each.place}" for each in ranges]


def _packing_in_c(connection_class: type[Any]) -> type[Any]:
    """Return a subclass that packs EVALSHA and MGET, the commands that grow with a batch, with hiredis.

    In asyncio, redis-py uses hiredis only to read answers, and has no option to pack with it. Other commands are left
    to redis-py, because some of their names have two words.
    """

    class Packing(connection_class):  # type: ignore[misc]
        def pack_command(self, *args: Any) -> list[bytes]:
            if args[0] in ("EVALSHA", "MGET"):
                return [hiredis.pack_command(args)]
            packed: list[bytes] = super().pack_command(*args)
            return packed

    return Packing


def _answers(found: Any, count: int) -> Sequence[Any]:
    """Return the values that a call returned for `count` keys. Raises Unavailable for any other answer."""
    if not isinstance(found, list) or len(found) != count:
        raise Unavailable(f"Redis: it answered {str(found)[:80]!r} instead of {count} values")
    return found


def _state(value: Any) -> LeaseState | Literal["done"] | None:
    """Return the meaning of a value; None if the value is foreign."""
    if value == _DONE:
        return DONE
    if not isinstance(value, bytes) or (match := _LEASE.fullmatch(value)) is None:
        return None
    owner, takeovers, taken_over = match.groups()
    return LeaseState(None if owner is None else owner.decode(), int(taken_over or takeovers or 0))


def _shown(value: Any) -> bytes:
    return value[:FOREIGN_SHOWN_BYTES] if isinstance(value, bytes) else b""


def _counter(value: Any) -> int | None:
    """Return a heartbeat counter; None for any other value."""
    return int(value) if isinstance(value, bytes) and _COUNTER.fullmatch(value) else None


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """Limit a call to Redis to CALL_DEADLINE_S, and turn its errors into Unavailable.

    uvloop raises RuntimeError if a connection closes while redis-py uses it.
    """
    try:
        async with asyncio.timeout(CALL_DEADLINE_S):
            yield
    except (RedisError, TimeoutError, OSError, RuntimeError) as error:
        raise Unavailable(f"Redis: {type(error).__name__}: {error}".rstrip(": ")) from error
