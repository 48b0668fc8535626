"""Leases in Redis, with one Lua call per batch.

The key of an event, `oncecast:{GROUP}:e:SOURCE NUL ID`, has one of these values:

- `TOKEN`: a lease of the listener with this token
- `=EPOCH:OFFSET`: a done marker, once the event has ended
- `!N`: free after N takeovers from dead lease owners
- `TOKEN*N`: leased again after N takeovers; `TOKEN!N` while it is attempted alone

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
from typing import Any

import hiredis
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.leases import Claims, DoneMarker, LeaseState, partition
from oncecast.stores.redis.pulse import Pulse

CALL_DEADLINE_S = 2.0
SOCKET_TIMEOUT_S = 1.0
COUNTER_TTL_MS = 60_000
COUNT_TTL_MS = 600_000
FOREIGN_SHOWN_BYTES = 40
"""How much of a foreign value a warning shows. A foreign value is one that Oncecast did not write."""
_LEASE = re.compile(rb"([0-9a-f]{16})(?:[*!](\d{1,6}))?|!(\d{1,6})")
_DONE = re.compile(rb"=[!-9;-~]{1,64}:\d{1,19}")
"""The values that an event's key may have."""
_COUNTER = re.compile(rb"\d{1,19}")


class RedisLeases:
    """The Leases of one listener in Redis."""

    def __init__(self, url: str, *, group: str, token: str, lease_ttl_s: float, mark_ttl_s: float) -> None:
        self._token = token
        self._own = token.encode()
        self._lease_ttl_ms = int(lease_ttl_s * 1000)
        self._mark_ttl_ms = int(mark_ttl_s * 1000)
        self._event_prefix = f"oncecast:{{{group}}}:e:"
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
        self._settle = self._script("settle")
        self._release = self._script("release")
        self._take_over_dead = self._script("take_over")
        self._begin_isolated = self._script("begin_isolated")
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

    async def claim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Lease the free events, and overwrite foreign values."""
        return await self._take(arrivals, [])

    async def reclaim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Lease as `claim` does, also events with a done marker of their own place."""
        return await self._take(arrivals, _marks(arrivals))

    async def _take(self, arrivals: Sequence[Arrival], marks: list[str]) -> Claims:
        keys = self._keys(arrivals)
        async with _bounded():
            found = await self._claim(keys=keys, args=[self._own, self._lease_ttl_ms, *marks])
        claims, foreign = self._partition(arrivals, found)
        if foreign:
            values = [(keys[n], _shown(found[n])) for n in foreign]
            await self._take_over(keys, found, foreign)
            claims, _ = self._partition(arrivals, found)  # PostgreSQL decides about values that changed once more
            claims.foreign = values
        claims.lease_free()
        return claims

    async def _take_over(self, keys: list[str], found: list[Any], foreign: list[int]) -> None:
        """Overwrite the values at the indexes `foreign` by leases of this listener, and update `found`."""
        seen = [found[n] if isinstance(found[n], bytes) else b"" for n in foreign]
        async with _bounded():
            values = await self._overwrite(
                keys=[keys[n] for n in foreign], args=[self._own, self._lease_ttl_ms, *seen]
            )
        for n, value in zip(foreign, _answers(values, len(foreign)), strict=True):
            found[n] = value

    async def peek(self, arrivals: Sequence[Arrival]) -> Claims:
        """Read the leases without taking any."""
        async with _bounded():
            found = await self._redis.mget(self._keys(arrivals))
        return self._partition(arrivals, found)[0]

    def _partition(self, arrivals: Sequence[Arrival], found: Any) -> tuple[Claims, list[int]]:
        """Return the meaning of the values, and the indexes of foreign values, whose events count as free."""
        states: dict[bytes, LeaseState] = {}  # the values of a batch that one listener leases are all the same
        read: list[LeaseState | DoneMarker | None] = []
        foreign = []
        for n, value in enumerate(_answers(found, len(arrivals))):
            if value is None:
                read.append(None)
            elif not isinstance(value, bytes):
                foreign.append(n)
                read.append(None)
            elif _DONE.fullmatch(value):
                read.append(value[1:].decode())
            else:
                state = states.get(value) or _state(value)
                if state is None:
                    foreign.append(n)
                else:
                    states[value] = state
                read.append(state)
        return partition(arrivals, read, self._token), foreign

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Replace this listener's leases by done markers."""
        async with _bounded():
            await self._settle(keys=self._keys(arrivals), args=[self._own, self._mark_ttl_ms, *_marks(arrivals)])

    async def release(self, arrivals: Sequence[Arrival]) -> int:
        """Release this listener's leases; keep the counts of takeovers."""
        async with _bounded():
            released: int = await self._release(keys=self._keys(arrivals), args=[self._own, COUNT_TTL_MS])
        return released

    async def take_over(self, arrivals: Sequence[Arrival], owner: str, *, died: bool) -> int:
        """Free the leases of `owner`, and count the takeovers if it `died`."""
        keys = self._keys(arrivals)
        async with _bounded():
            taken_over: int = await (
                self._take_over_dead(keys=keys, args=[owner, COUNT_TTL_MS, QUARANTINE_AFTER_TAKEOVERS])
                if died
                else self._release(keys=keys, args=[owner, COUNT_TTL_MS])
            )
        return taken_over

    async def begin_isolated(self, arrival: Arrival, isolated: bool) -> None:
        """Write `!` or `*` into this listener's lease of a quarantined event: whether it runs alone."""
        before, after = ("*", "!") if isolated else ("!", "*")
        async with _bounded():
            await self._begin_isolated(keys=self._keys([arrival]), args=[self._own, before, after])

    async def renew(self, arrivals: Sequence[Arrival]) -> None:
        """Restart the expiry of this listener's leases."""
        async with _bounded():
            await self._renew(keys=self._keys(arrivals), args=[self._own, self._lease_ttl_ms])

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

    def _keys(self, arrivals: Sequence[Arrival]) -> list[str]:
        prefix = self._event_prefix
        return [f"{prefix}{arrival.source}\0{arrival.id}" for arrival in arrivals]


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


def _state(value: bytes) -> LeaseState | None:
    """Return the lease in a value; None if the value is foreign."""
    if (match := _LEASE.fullmatch(value)) is None:
        return None
    owner, takeovers, taken_over = match.groups()
    return LeaseState(None if owner is None else owner.decode(), int(taken_over or takeovers or 0))


def _shown(value: Any) -> bytes:
    return value[:FOREIGN_SHOWN_BYTES] if isinstance(value, bytes) else b""


def _counter(value: Any) -> int | None:
    """Return a heartbeat counter; None for any other value."""
    return int(value) if isinstance(value, bytes) and _COUNTER.fullmatch(value) else None


def _marks(arrivals: Sequence[Arrival]) -> list[str]:
    return [f"={arrival.cursor}" for arrival in arrivals]


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
