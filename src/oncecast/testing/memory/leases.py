"""Leases in memory: one dictionary for all lease owners, as in Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from oncecast.core.leases import DONE, Claims, LeaseState, partition
from oncecast.core.ranges import Range
from oncecast.testing.memory.call import ServerCall, at_once, at_server

COUNT_TTL_S = 600.0
COUNTER_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of `owner`; None after a takeover, or if it `is_done`: then it is a done marker."""

    owner: str | None
    until_s: float
    takeovers: int = 0
    is_done: bool = False

    @property
    def is_free(self) -> bool:
        """Whether any listener may claim the range."""
        return self.owner is None and not self.is_done

    @property
    def state(self) -> LeaseState | Literal["done"]:
        """The state that every listener sees."""
        return DONE if self.is_done else LeaseState(self.owner, self.takeovers)


@dataclass(slots=True)
class MemoryRedis:
    """The shared server; `now_s()` is its own clock."""

    now_s: Callable[[], float]
    leases: dict[str, Lease] = field(default_factory=dict)
    counters: dict[str, tuple[int, float]] = field(default_factory=dict)

    def get(self, place: str) -> Lease | None:
        """Return the entry of a range, unless it has expired."""
        lease = self.leases.get(place)
        if lease is not None and lease.until_s <= self.now_s():
            del self.leases[place]
            return None
        return lease

    def empty(self) -> None:
        """Delete everything."""
        self.leases.clear()
        self.counters.clear()

    def snapshot(self) -> MemoryRedis:
        """Return a copy of everything, for `fail_over`."""
        return MemoryRedis(self.now_s, dict(self.leases), dict(self.counters))

    def fail_over(self, to: MemoryRedis) -> None:
        """Continue from an older state."""
        older = to.snapshot()
        self.leases, self.counters = older.leases, older.counters


class MemoryLeases:
    """Leases on a MemoryRedis. Every call goes through `call`, which may lose or delay it."""

    def __init__(
        self, server: MemoryRedis, *, token: str, lease_ttl_s: float, mark_ttl_s: float, call: ServerCall = at_once
    ) -> None:
        self.token = token
        self._server = server
        self._lease_ttl_s = lease_ttl_s
        self._mark_ttl_s = mark_ttl_s
        self._do = call

    async def claim(self, ranges: Sequence[Range]) -> Claims:
        """Lease ranges that are free; return who has the others."""
        return await self._claim(ranges, over_done=False)

    async def reclaim(self, ranges: Sequence[Range]) -> Claims:
        """Lease ranges even over a done marker."""
        return await self._claim(ranges, over_done=True)

    async def _claim(self, ranges: Sequence[Range], *, over_done: bool) -> Claims:
        def claim() -> list[Lease | None]:
            found = self._read(ranges)
            until_s = self._server.now_s() + self._lease_ttl_s
            for n, (each, lease) in enumerate(zip(ranges, found, strict=True)):
                if over_done and lease is not None and lease.is_done:
                    lease = found[n] = None
                if lease is None or lease.is_free:
                    takeovers = lease.takeovers if lease is not None else 0
                    self._server.leases[each.place] = Lease(self.token, until_s, takeovers)
            return found

        claims = self._partition(ranges, await self._do(claim))
        claims.lease_free()
        return claims

    async def peek(self, ranges: Sequence[Range]) -> Claims:
        """Return the state of each range without leasing it."""
        return self._partition(ranges, await self._do(lambda: self._read(ranges)))

    def _read(self, ranges: Sequence[Range]) -> list[Lease | None]:
        return [self._server.get(each.place) for each in ranges]

    def _partition(self, ranges: Sequence[Range], found: Sequence[Lease | None]) -> Claims:
        return partition(ranges, [lease if lease is None else lease.state for lease in found], self.token)

    @at_server
    def mark_done(self, ranges: Sequence[Range]) -> None:
        """Replace this listener's leases by done markers."""
        until_s = self._server.now_s() + self._mark_ttl_s
        for place, _ in self._leased_by(self.token, ranges):
            self._server.leases[place] = Lease(None, until_s, is_done=True)

    async def release(self, ranges: Sequence[Range]) -> int:
        """Release this listener's leases; return their number."""
        return await self._free(ranges, self.token, died=False)

    async def take_over(self, ranges: Sequence[Range], owner: str, *, died: bool) -> int:
        """Free a dead listener's leases; return their number."""
        return await self._free(ranges, owner, died=died)

    @at_server
    def _free(self, ranges: Sequence[Range], owner: str, *, died: bool) -> int:
        leased = self._leased_by(owner, ranges)
        for place, lease in leased:
            # rule: a takeover from an owner that may live counts nothing
            takeovers = lease.takeovers + died
            if takeovers:
                self._server.leases[place] = Lease(None, self._server.now_s() + COUNT_TTL_S, takeovers)
            else:
                del self._server.leases[place]
        return len(leased)

    @at_server
    def renew(self, ranges: Sequence[Range]) -> None:
        """Renew this listener's leases."""
        until_s = self._server.now_s() + self._lease_ttl_s
        for place, lease in self._leased_by(self.token, ranges):
            self._server.leases[place] = replace(lease, until_s=until_s)

    @at_server
    def heartbeat(self) -> None:
        """Increment this listener's counter."""
        count, until_s = self._server.counters.get(self.token, (0, 0.0))
        count = count if until_s > self._server.now_s() else 0
        self._server.counters[self.token] = (count + 1, self._server.now_s() + COUNTER_TTL_S)

    @at_server
    def counters(self, tokens: Sequence[str]) -> Mapping[str, int | None]:
        """Return the counters of listeners by token."""
        found = {token: self._server.counters.get(token, (0, 0.0)) for token in tokens}
        return {token: n if until_s > self._server.now_s() else None for token, (n, until_s) in found.items()}

    async def close(self) -> None:
        """Do nothing."""

    def _leased_by(self, owner: str, ranges: Sequence[Range]) -> list[tuple[str, Lease]]:
        found = ((each.place, self._server.get(each.place)) for each in ranges)
        # rule: a listener changes only its own leases
        return [(place, lease) for place, lease in found if lease is not None and lease.owner == owner]
