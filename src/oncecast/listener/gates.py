"""The two dependencies as the stations see them: Redis may be missing, PostgreSQL may make everybody wait.

Without Redis every event counts as ours, since PostgreSQL decides anyway. While PostgreSQL is down nothing is
begun: no attempt is spent, and a probe that *writes* finds out when it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from oncecast.core.breaker import Breaker
from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.facts import DependencyLost, DependencyReady, DependencyTried, Observe
from oncecast.core.ports import Claims, EventStore, Leases

HEARTBEAT_INTERVAL_S = 1.0
CALL_MAX_EVENTS = 1_000
"""So many events in a call at most: a Lua script holds everybody else up."""


class LeaseGate:
    """Leases behind a breaker: while Redis is away, claims are granted and everything else is left undone.

    Each heartbeat is the breaker's probe.
    """

    def __init__(self, leases: Leases, *, lease_ttl_s: float, observe: Observe) -> None:
        self.leases = leases
        self.breaker = Breaker(threshold=1, probe_interval_s=HEARTBEAT_INTERVAL_S / 2)
        self._renew_after_s = lease_ttl_s / 3
        self._observe = observe
        self._announced = self._tried = False

    @property
    def token(self) -> str:
        """This process's own."""
        return self.leases.token

    @property
    def is_up(self) -> bool:
        """Whether Redis answered last time."""
        return self.breaker.is_closed

    async def claim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Who has what; all is ours while Redis is away."""
        if self.is_up:
            try:
                claims = await self.leases.claim(arrivals)
            except Unavailable as error:
                self._lost(error)
            else:
                renew_at_s = time.monotonic() + self._renew_after_s
                for arrival in claims.mine:
                    arrival.leased, arrival.renew_at_s = True, renew_at_s
                return claims
        return Claims(mine=list(arrivals))

    async def look(self, arrivals: Sequence[Arrival]) -> Claims:
        """Who has what now; all is free while Redis is away."""
        claims = Claims()
        for begin in range(0, len(arrivals), CALL_MAX_EVENTS):
            chunk = arrivals[begin : begin + CALL_MAX_EVENTS]
            found = Claims(free=list(chunk))
            if self.is_up:
                try:
                    found = await self.leases.look(chunk)
                except Unavailable as error:
                    self._lost(error)
            for name in ("mine", "taken", "ended", "elsewhere", "free"):
                getattr(claims, name).extend(getattr(found, name))
        return claims

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Mark what has ended; without Redis nobody needs to know."""
        await self._each(self.leases.settle, [a for a in arrivals if a.leased])

    async def hand_back(self, arrivals: Sequence[Arrival]) -> int:
        """Release our own leases of these; returns how many we thought we had."""
        held = [arrival for arrival in arrivals if arrival.leased]
        for arrival in held:
            arrival.leased = False
        await self._each(self.leases.release, held)
        return len(held)

    async def rescue(self, arrivals: Sequence[Arrival], holder: str) -> None:
        """Break the leases of a dead holder."""
        await self._each(lambda chunk: self.leases.rescue(chunk, holder), list(arrivals))

    async def accuse(self, arrival: Arrival, accused: bool) -> None:
        """Have our lease say whether we attempt this suspect, alone; nobody counts while Redis is away."""
        await self._each(lambda chunk: self.leases.accuse(chunk[0], accused), [arrival] if arrival.leased else [])

    async def renew(self, arrivals: Sequence[Arrival]) -> None:
        """Renew those of our leases that have been held for long."""
        now_s = time.monotonic()
        due = [arrival for arrival in arrivals if arrival.leased and arrival.renew_at_s <= now_s]
        for arrival in due:
            arrival.renew_at_s = now_s + self._renew_after_s
        await self._each(self.leases.renew, due)

    async def counters(self, tokens: Sequence[str]) -> dict[str, int | None] | None:
        """The holders' counters; None while Redis is away: then nobody can be told dead."""
        if not self.is_up:
            return None
        try:
            return dict(await self.leases.counters(tokens))
        except Unavailable as error:
            self._lost(error)
            return None

    async def _each(self, call: Callable[[Sequence[Arrival]], Awaitable[object]], arrivals: list[Arrival]) -> None:
        for begin in range(0, len(arrivals), CALL_MAX_EVENTS):
            if not self.is_up:
                return
            try:
                await call(arrivals[begin : begin + CALL_MAX_EVENTS])
            except Unavailable as error:
                self._lost(error)

    async def beat_for_ever(self) -> None:
        """Move our counter every second, and so find out when Redis is back."""
        while True:
            started_s = time.monotonic()
            if self.breaker.allows(started_s):
                await self._beat()
            await asyncio.sleep(max(0.0, started_s + HEARTBEAT_INTERVAL_S - time.monotonic()))

    async def _beat(self) -> None:
        if not self._tried:
            self._tried = True
            self._observe(DependencyTried("redis"))
        try:
            await self.leases.beat()
        except Unavailable as error:
            self._lost(error)
        else:
            if self.breaker.succeeded() or not self._announced:
                self._announced = True
                self._observe(DependencyReady("redis"))

    def _lost(self, error: Unavailable) -> None:
        if self.breaker.failed(time.monotonic()):
            self._announced, self._tried = True, False
            self._observe(DependencyLost("redis", str(error)))


class DatabaseGate:
    """Open while PostgreSQL takes writes; closed from the moment that its tries are used up."""

    def __init__(self, store: EventStore, *, probe_interval_s: float, observe: Observe) -> None:
        self._store = store
        self._probe_interval_s = probe_interval_s
        self._observe = observe
        self._up = asyncio.Event()
        self._up.set()
        self._down = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether work may begin."""
        return self._up.is_set()

    async def wait(self) -> None:
        """Until PostgreSQL takes writes."""
        await self._up.wait()

    async def wait_down(self, timeout_s: float) -> bool:
        """Wait `timeout_s`, or less if it goes down meanwhile; returns whether it is down."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._down.wait()
        except TimeoutError:
            return False
        return True

    def lost(self, error: Exception) -> bool:
        """The tries are used up: begin nothing until a probe has written. Returns whether that is news."""
        if not self.is_up:
            return False
        self._up.clear()
        self._down.set()
        self._observe(DependencyLost("database", str(error)))
        return True

    async def probe_for_ever(self) -> None:
        """While it is down, try a write on a fresh connection every `probe_interval_s`."""
        while True:
            await self._down.wait()
            self._observe(DependencyTried("database"))
            while not await self._answers():  # noqa: ASYNC110 - what comes back sets no event of ours
                await asyncio.sleep(self._probe_interval_s)
            self._down.clear()
            self._up.set()
            self._observe(DependencyReady("database"))

    async def _answers(self) -> bool:
        try:
            await self._store.probe()
        except Unavailable:
            return False
        return True
