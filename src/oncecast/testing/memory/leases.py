"""Leases in memory: one dictionary for all lease owners, as in Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from oncecast.core.event import Arrival
from oncecast.core.leases import Claims, DoneMarker, LeaseState, partition, takeovers_after
from oncecast.testing.memory.call import ServerCall, at_once

COUNT_TTL_S = 600.0
COUNTER_TTL_S = 60.0


@dataclass(slots=True)
class Lease:
    """A lease of `holder`, None after a takeover; or, with `mark`, the done marker of an ended event."""

    holder: str | None
    until_s: float
    takeovers: int = 0
    isolated: bool = False
    mark: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether any listener may claim it."""
        return self.holder is None and self.mark is None

    @property
    def state(self) -> LeaseState | DoneMarker:
        """Return the state that every listener sees."""
        return LeaseState(self.holder, self.takeovers) if self.mark is None else self.mark

    def copy(self) -> Lease:
        """Return a copy."""
        return Lease(self.holder, self.until_s, self.takeovers, self.isolated, self.mark)


@dataclass(slots=True)
class MemoryRedis:
    """The shared server; `now_s()` is its own clock."""

    now_s: Callable[[], float]
    leases: dict[str, Lease] = field(default_factory=dict)
    counters: dict[str, tuple[int, float]] = field(default_factory=dict)

    def get(self, identity: str) -> Lease | None:
        """Return the entry, unless it has expired."""
        lease = self.leases.get(identity)
        if lease is not None and lease.until_s <= self.now_s():
            del self.leases[identity]
            return None
        return lease

    def empty(self) -> None:
        """Delete everything."""
        self.leases.clear()
        self.counters.clear()

    def snapshot(self) -> MemoryRedis:
        """Return a copy of everything, for `fail_over`."""
        leases = {identity: lease.copy() for identity, lease in self.leases.items()}
        return MemoryRedis(self.now_s, leases, dict(self.counters))

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
        self._call = call

    async def claim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Lease events that are free; return who has the others."""
        return await self._take(arrivals, over_marks=False)

    async def reclaim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Lease events even over a done marker."""
        return await self._take(arrivals, over_marks=True)

    async def _take(self, arrivals: Sequence[Arrival], *, over_marks: bool) -> Claims:
        def claim() -> list[Lease | None]:
            found = self._read(arrivals)
            until_s = self._server.now_s() + self._lease_ttl_s
            for n, (arrival, lease) in enumerate(zip(arrivals, found, strict=True)):
                if over_marks and lease is not None and lease.mark == arrival.cursor:
                    lease = found[n] = None
                if lease is None or lease.is_free:
                    takeovers = lease.takeovers if lease is not None else 0
                    self._server.leases[arrival.identity] = Lease(self.token, until_s, takeovers)
            return found

        claims = self._partition(arrivals, await self._call(claim))
        claims.lease_free()
        return claims

    async def peek(self, arrivals: Sequence[Arrival]) -> Claims:
        """Return the state of each event without leasing it."""
        return self._partition(arrivals, await self._call(lambda: self._read(arrivals)))

    def _read(self, arrivals: Sequence[Arrival]) -> list[Lease | None]:
        """Return copies of the current entries, as an answer would contain them."""
        found = (self._server.get(arrival.identity) for arrival in arrivals)
        return [None if lease is None else lease.copy() for lease in found]

    def _partition(self, arrivals: Sequence[Arrival], found: Sequence[Lease | None]) -> Claims:
        states = [lease if lease is None else lease.state for lease in found]
        return partition(arrivals, states, self.token)

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Replace this listener's leases by done markers."""

        def settle() -> None:
            until_s = self._server.now_s() + self._mark_ttl_s
            for arrival in self._own(arrivals):
                self._server.leases[arrival.identity] = Lease(None, until_s, mark=arrival.cursor)

        await self._call(settle)

    async def release(self, arrivals: Sequence[Arrival]) -> int:
        """Release this listener's leases; return their number."""

        def release() -> int:
            own = self._own(arrivals)
            for arrival in own:
                lease = self._server.leases.pop(arrival.identity)
                if lease.takeovers:
                    self._free(arrival, lease.takeovers)
            return len(own)

        released: int = await self._call(release)
        return released

    async def take_over(self, arrivals: Sequence[Arrival], owner: str, *, died: bool) -> int:
        """Free a dead listener's leases; return their number."""

        def take_over() -> int:
            dead = self._held_by(owner, arrivals)
            for arrival in dead:
                lease = self._server.leases[arrival.identity]
                self._free(arrival, takeovers_after(lease.takeovers, died=died, ran_alone=lease.isolated))
            return len(dead)

        taken_over: int = await self._call(take_over)
        return taken_over

    async def begin_isolated(self, arrival: Arrival, isolated: bool) -> None:
        """Record on the lease whether the event runs isolated."""

        def begin_isolated() -> None:
            for own in self._own([arrival]):
                lease = self._server.leases[own.identity]
                lease.isolated = isolated and lease.takeovers > 0

        await self._call(begin_isolated)

    async def renew(self, arrivals: Sequence[Arrival]) -> None:
        """Renew this listener's leases."""

        def renew() -> None:
            for arrival in self._own(arrivals):
                self._server.leases[arrival.identity].until_s = self._server.now_s() + self._lease_ttl_s

        await self._call(renew)

    async def heartbeat(self) -> None:
        """Increment this listener's counter."""

        def heartbeat() -> None:
            count, until_s = self._server.counters.get(self.token, (0, 0.0))
            count = count if until_s > self._server.now_s() else 0
            self._server.counters[self.token] = (count + 1, self._server.now_s() + COUNTER_TTL_S)

        await self._call(heartbeat)

    async def counters(self, tokens: Sequence[str]) -> Mapping[str, int | None]:
        """Return the counters of listeners by token."""

        def counters() -> dict[str, int | None]:
            found = {token: self._server.counters.get(token, (0, 0.0)) for token in tokens}
            return {token: n if until_s > self._server.now_s() else None for token, (n, until_s) in found.items()}

        read: dict[str, int | None] = await self._call(counters)
        return read

    async def close(self) -> None:
        """Do nothing."""

    def _own(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        return self._held_by(self.token, arrivals)

    def _held_by(self, holder: str, arrivals: Sequence[Arrival]) -> list[Arrival]:
        found = ((arrival, self._server.get(arrival.identity)) for arrival in arrivals)
        # rule: a listener changes only its own leases
        return [arrival for arrival, lease in found if lease is not None and lease.holder == holder]

    def _free(self, arrival: Arrival, takeovers: int) -> None:
        until_s = self._server.now_s() + COUNT_TTL_S
        self._server.leases[arrival.identity] = Lease(None, until_s, takeovers)
