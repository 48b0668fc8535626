"""Gates to Redis and PostgreSQL, each behind a circuit breaker.

While Redis is down, the listener claims every range, since PostgreSQL decides who stores it. While PostgreSQL is
down, the listener starts nothing and spends no attempt; a probe that *writes* detects its recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from oncecast.core.breaker import Breaker
from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, TransactionConflict, Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.leases import Claims
from oncecast.core.ports import DatabaseConnections, Leases
from oncecast.core.ranges import Range
from oncecast.core.telemetry import DependencyLost, DependencyReady, DependencyTried, ForeignValues, Record
from oncecast.tasks import STALL_S, working

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_DEADLINE_S = 1.5
"""A frozen Redis is detected within three seconds."""
CHECK_INTERVAL_S = 1.0
WAITED_FOR_S = 0.4
"""An attempt that has run this long may be waiting for PostgreSQL."""
SLOW_S = 8.0
"""An attempt that runs this long (longer than a connection timeout) may wait for a frozen PostgreSQL."""
RETRIED_AFTER_S = 0.5
"""A retry that starts this long after a failure and also fails shows an outage; see `error_of_attempts`."""
WARN_INTERVAL_S = 10.0
"""Between warnings about foreign values in Redis; each shows one value and the count."""
CALL_MAX_RANGES = 1_000
"""The maximum number of ranges per call: a Lua script blocks Redis for all clients."""


class LeaseGate:
    """Leases behind a circuit breaker. While Redis is down, claims are granted and other calls do nothing.

    Each heartbeat is the breaker's probe.
    """

    def __init__(self, leases: Leases, clock: Clock, *, lease_ttl_s: float, record: Record) -> None:
        self.leases = leases
        self._clock = clock
        self.breaker = Breaker(threshold=1, probe_interval_s=HEARTBEAT_INTERVAL_S / 2)
        self._renew_after_s = lease_ttl_s / 3
        self._record = record
        self._announced = self._tried = False
        self._warn_again_at_s = 0.0
        self.fault: str | None = None
        """Why Redis cannot be used; None while it answers."""

    @property
    def token(self) -> str:
        """The token of this listener."""
        return self.leases.token

    @property
    def is_up(self) -> bool:
        """Whether Redis answered the last call."""
        return self.breaker.is_closed

    async def claim(self, ranges: Sequence[Range]) -> Claims:
        """Claim ranges; while Redis is down, return all of them as acquired."""
        claims = Claims()
        for begin in range(0, len(ranges), CALL_MAX_RANGES):
            claims.add(await self._claim(ranges[begin : begin + CALL_MAX_RANGES]))
        return claims

    async def _claim(self, ranges: Sequence[Range]) -> Claims:
        if self.is_up:
            try:
                claims = self._noted(await self.leases.claim(ranges))
                await self._reclaim(claims)
            except Unavailable as error:
                self._lost(error)
            else:
                self._warn_of(claims.foreign)
                return claims
        for each in ranges:  # without Redis, only PostgreSQL counts crashes
            if each.suspected:
                each.takeovers = max(each.takeovers, QUARANTINE_AFTER_TAKEOVERS)
        # rule: a listener claims every range while Redis is away
        return Claims(acquired=list(ranges))

    def _noted(self, claims: Claims) -> Claims:
        """Record on the acquired ranges their lease and their number of takeovers."""
        renew_at_s = self._clock.monotonic_s() + self._renew_after_s
        for each in claims.acquired:
            each.leased, each.renew_at_s = True, renew_at_s
        return _with_takeovers(claims)

    def _warn_of(self, foreign: Sequence[tuple[str, bytes]]) -> None:
        """Warn about overwritten foreign values, at most once per WARN_INTERVAL_S."""
        if foreign and self._clock.monotonic_s() >= self._warn_again_at_s:
            self._warn_again_at_s = self._clock.monotonic_s() + WARN_INTERVAL_S
            key, value = foreign[0]
            self._record(ForeignValues(len(foreign), key, repr(value)[1:]))

    async def _reclaim(self, claims: Claims) -> None:
        """Reclaim ranges that have a done marker, but whose rows PostgreSQL may have lost.

        The lease makes one listener check each of them, and counts the listeners that crash on it.
        """
        # rule: a done marker proves nothing about a range that is read again
        doubtful = [each for each in claims.ended if each.first <= each.track.distrusted_to]
        if doubtful:
            claims.ended = [each for each in claims.ended if each not in doubtful]
            claims.add(self._noted(await self.leases.reclaim(doubtful)))

    async def peek(self, ranges: Sequence[Range]) -> Claims:
        """Return the lease state of each range without claiming any; while Redis is down, all are free."""
        claims = Claims()
        for begin in range(0, len(ranges), CALL_MAX_RANGES):
            chunk = ranges[begin : begin + CALL_MAX_RANGES]
            # rule: a leased range can be claimed while Redis is away
            found = Claims(free=list(chunk))
            if self.is_up:
                try:
                    found = _with_takeovers(await self.leases.peek(chunk))
                except Unavailable as error:
                    self._lost(error)
            claims.add(found)
        return claims

    async def mark_done(self, ranges: Sequence[Range]) -> None:
        """Write the done markers of ended ranges; do nothing while Redis is down."""
        await self._each(self.leases.mark_done, ranges)

    async def release(self, ranges: Iterable[Range]) -> None:
        """Release this listener's leases of these ranges."""
        leased = [each for each in ranges if each.leased]
        for each in leased:
            each.leased = False
        await self._each(self.leases.release, leased)

    async def take_over(self, ranges: Sequence[Range], owner: str, *, died: bool) -> None:
        """Break the leases of `owner`, whose heartbeat stopped; count a takeover only if it has `died`."""
        await self._each(lambda chunk: self.leases.take_over(chunk, owner, died=died), ranges)

    async def renew(self, ranges: Iterable[Range]) -> None:
        """Renew the leases that are due: a third of their time has passed."""
        now_s = self._clock.monotonic_s()
        due = [each for each in ranges if each.leased and each.renew_at_s <= now_s]
        for each in due:
            each.renew_at_s = now_s + self._renew_after_s
        await self._each(self.leases.renew, due)

    async def counters(self, tokens: Sequence[str]) -> dict[str, int | None] | None:
        """Return the heartbeat counters of lease owners; None while Redis is down."""
        if not self.is_up:
            return None
        try:
            return dict(await self.leases.counters(tokens))
        except Unavailable as error:
            self._lost(error)
            return None

    async def _each(self, call: Callable[[Sequence[Range]], Awaitable[object]], ranges: Sequence[Range]) -> None:
        for begin in range(0, len(ranges), CALL_MAX_RANGES):
            if not self.is_up:
                return
            try:
                await call(ranges[begin : begin + CALL_MAX_RANGES])
            except Unavailable as error:
                self._lost(error)

    async def heartbeat_loop(self) -> None:
        """Send a heartbeat every second; it also detects when Redis is back."""
        while True:
            working(STALL_S)
            started_s = self._clock.monotonic_s()
            if self.breaker.allows(started_s):
                await self._heartbeat()
            await self._clock.sleep(max(0.0, started_s + HEARTBEAT_INTERVAL_S - self._clock.monotonic_s()))

    async def _heartbeat(self) -> None:
        if not self._tried:
            self._tried = True
            self._record(DependencyTried("redis"))
        try:
            async with asyncio.timeout(HEARTBEAT_DEADLINE_S):
                await self.leases.heartbeat()
        except TimeoutError:
            self._lost(Unavailable(f"Redis: no answer within {HEARTBEAT_DEADLINE_S:g} s"))
        except Unavailable as error:
            self._lost(error)
        else:
            self.fault = None
            if self.breaker.succeeded() or not self._announced:
                self._announced = True
                self._record(DependencyReady("redis"))

    def _lost(self, error: Unavailable) -> None:
        self.fault = str(error)
        if self.breaker.failed(self._clock.monotonic_s()):
            self._announced, self._tried = True, False
            self._record(DependencyLost("redis", str(error)))


def _with_takeovers(claims: Claims) -> Claims:
    """Record on each range how often it was taken over."""
    for each, takeovers in claims.takeovers:
        each.takeovers = takeovers
    return claims


class DatabaseGate:
    """Admits work while PostgreSQL accepts writes.

    Its breaker opens when the retries of an attempt are used up, or when a probe fails while an attempt is slow. A
    probe that *writes* closes it. `paused()` is called when it opens.
    """

    def __init__(
        self,
        store: DatabaseConnections,
        clock: Clock,
        *,
        probe_interval_s: float,
        paused: Callable[[], None],
        record: Record,
    ) -> None:
        self.breaker = Breaker(threshold=1, probe_interval_s=probe_interval_s)
        self._store = store
        self._sleep = clock.sleep
        self._monotonic_s = clock.monotonic_s  # called for every attempt
        self._paused = paused
        self._record = record
        self._up = asyncio.Event()
        self._up.set()
        self._down = asyncio.Event()
        self._asked_at_s: dict[Arrival | Range, float] = {}
        self._checked_at_s = 0.0
        self._failing: tuple[float, float, Unavailable] | None = None
        """Start of the run of failed attempts, start of its newest attempt, and its error."""
        self.ended_at_s = 0.0
        """When an attempt last succeeded."""
        self.fault: str | None = None
        """Why PostgreSQL cannot be used; None while it answers."""

    @property
    def is_up(self) -> bool:
        """Whether work may start."""
        return self._up.is_set()

    async def wait(self) -> None:
        """Wait until PostgreSQL accepts writes."""
        await self._up.wait()

    async def wait_down(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for an outage; return whether PostgreSQL is down."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._down.wait()
        except TimeoutError:
            return False
        return True

    def asked(self, first: Arrival | Range) -> None:
        """Record the start of the attempt whose first event or range is `first`; a long one triggers a probe."""
        self._asked_at_s[first] = self._monotonic_s()

    def dropped(self, first: Arrival | Range) -> None:
        """Record the end of an attempt that proves nothing about PostgreSQL."""
        del self._asked_at_s[first]

    def answered(self, first: Arrival | Range, error: BaseException | None = None) -> None:
        """Record the end of the attempt. Any answer except Unavailable shows that PostgreSQL works."""
        began_s, now_s = self._asked_at_s.pop(first), self._monotonic_s()
        if isinstance(error, TransactionConflict) or not isinstance(error, Exception | None):
            return  # a conflict or a cancellation proves nothing about PostgreSQL
        if isinstance(error, Unavailable):
            since_s, newest_s, _ = self._failing or (now_s, began_s, error)
            self._failing = (since_s, max(newest_s, began_s), error)
            return
        self._failing = None
        if error is None:
            self.ended_at_s = now_s

    @property
    def is_waited_for(self) -> bool:
        """Whether an attempt is slow, perhaps because of PostgreSQL."""
        now_s = self._monotonic_s()
        return now_s - min(self._asked_at_s.values(), default=now_s) >= WAITED_FOR_S

    @property
    def is_failing(self) -> bool:
        """Whether the newest attempt ended with Unavailable."""
        return self._failing is not None

    def error_of_attempts(self, after_s: float) -> Unavailable | None:
        """Return the newest error if all attempts have failed for `after_s`, else None.

        Failures at one moment do not suffice: a terminated session fails once, and its attempt then waits. A retry
        that started RETRIED_AFTER_S later must have failed too.
        """
        if self._failing is None:
            return None
        since_s, newest_s, error = self._failing
        lasts = self._monotonic_s() - since_s >= after_s and newest_s - since_s >= RETRIED_AFTER_S
        return error if lasts else None

    def report_down(self, error: Exception) -> None:
        """Report an outage of PostgreSQL, once. Work continues until its retries are used up."""
        is_news = self.fault is None
        self.fault = str(error)
        if is_news:
            self._record(DependencyLost("database", self.fault))

    def report_up(self) -> None:
        """Report that PostgreSQL is ready again, once."""
        if self.fault is not None and self.is_up:
            self.fault = None
            self._record(DependencyReady("database"))

    def lost(self, error: Exception) -> None:
        """Open the breaker after the last retry: start nothing until a probe has written."""
        if self.breaker.failed(self._monotonic_s()):
            self._up.clear()
            self._down.set()
            self._paused()
            self.report_down(error)

    async def probe_loop(self) -> None:
        """While PostgreSQL is down, probe with a write on a new connection; also probe while an attempt is slow."""
        while True:
            working(STALL_S)
            if await self.wait_down(CHECK_INTERVAL_S):
                await self._probe_until_up()
            elif self._is_slow() and (error := await self._probe()):
                self.lost(error)

    async def _probe_until_up(self) -> None:
        self._record(DependencyTried("database"))
        while not self.is_up:
            working(STALL_S)
            await self._sleep(max(0.0, self.breaker.probe_at_s - self._monotonic_s()))
            if not self.breaker.allows(self._monotonic_s()):
                continue
            if await self._probe(renew=True):
                self.breaker.failed(self._monotonic_s())
                continue
            self.breaker.succeeded()
            self._down.clear()
            # rule: a probe that writes ends the pause
            self._up.set()
            self._failing = None
            self.report_up()

    def _is_slow(self) -> bool:
        """Whether an attempt has run for SLOW_S, counted from its start or from the last check."""
        now_s = self._monotonic_s()
        if now_s - max(self._checked_at_s, min(self._asked_at_s.values(), default=now_s)) < SLOW_S:
            return False
        self._checked_at_s = now_s
        return True

    async def _probe(self, *, renew: bool = False) -> Unavailable | None:
        """Return the error of a probe, or None. With `renew`, replace the pooled connections."""
        try:
            await self._store.probe()
            if renew:
                await self._store.renew()
        except RowLocked:
            return None  # PostgreSQL answers; another session holds a table lock
        except Unavailable as error:
            return error
        return None
