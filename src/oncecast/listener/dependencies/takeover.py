"""The watch over events that are leased elsewhere: they have *not* ended.

Every CHECK_INTERVAL_S, one call reads their lease states. Events with a done marker have ended; free events are
requeued. The events of a dead lease owner are taken over: first its database sessions are ended, which frees its
locks, then its leases are broken, then any listener claims the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from oncecast.core.clock import Clock
from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import LeaseOwners
from oncecast.core.ports import DatabaseConnections, Sessions
from oncecast.core.telemetry import Record, TakenOver
from oncecast.listener.dependencies.gates import HEARTBEAT_INTERVAL_S, LeaseGate
from oncecast.tasks import STALL_S, working

CHECK_INTERVAL_S = 0.5
DEAD_AFTER_S = 4.0
SILENT_S = DEAD_AFTER_S - HEARTBEAT_INTERVAL_S
"""A lease owner without a heartbeat that ran a statement within this time is alive, and has only lost Redis."""


class Takeovers:
    """Keeps events leased elsewhere until they have ended there (`ended`) or can be claimed (`come_back`)."""

    def __init__(
        self,
        leases: LeaseGate,
        store: DatabaseConnections,
        clock: Clock,
        *,
        ended: Callable[[Sequence[Arrival]], None],
        come_back: Callable[[list[Arrival]], None],
        record: Record,
    ) -> None:
        self._leases = leases
        self._store = store
        self._clock = clock
        self._ended = ended
        self._come_back = come_back
        self._record = record
        self._taken: list[tuple[Arrival, str]] = []
        self._owners = LeaseOwners(DEAD_AFTER_S)

    def add(self, taken: Iterable[tuple[Arrival, str]]) -> None:
        """Watch these events, each with the token of its lease owner."""
        self._taken.extend(taken)

    @property
    def count(self) -> int:
        """The number of events leased elsewhere."""
        return len(self._taken)

    async def watch_loop(self) -> None:
        """Check every CHECK_INTERVAL_S."""
        while True:
            working(STALL_S)
            await self._clock.sleep(CHECK_INTERVAL_S)
            if self._taken:
                await self.check()

    async def check(self) -> None:
        """Check the lease states of all watched events once."""
        asked, self._taken = self._taken, []
        found = await self._leases.peek([arrival for arrival, _ in asked])
        self._ended(found.ended)
        self._come_back(found.free + found.mine + found.elsewhere)
        dead = await self._dead({token for _, token in found.taken})
        taken_over: dict[str, list[Arrival]] = defaultdict(list)
        for arrival, token in found.taken:
            if token in dead:
                taken_over[token].append(arrival)
            else:
                # rule: an event leased by another listener is watched until it ends
                self._taken.append((arrival, token))
        for token, arrivals in taken_over.items():
            await self._take_over(token, arrivals)

    async def _dead(self, tokens: set[str]) -> set[str]:
        asked_s = self._clock.monotonic_s()
        counters = await self._leases.counters(sorted(tokens))
        if counters is None:  # Redis may have been frozen: observe the counters afresh when it is back
            self._owners.forget(tokens)
            return set()
        return set(self._owners.observe(counters, asked_s, self._clock.monotonic_s()))

    async def _take_over(self, token: str, arrivals: list[Arrival]) -> None:
        try:
            sessions = await self._store.end_sessions(token, silent_s=SILENT_S)
        except Unavailable:  # nothing can end without PostgreSQL: the next check tries again
            sessions = Sessions.IN_USE
        if sessions is Sessions.IN_USE:
            self.add((arrival, token) for arrival in arrivals)
            return
        # rule: only a proven death is charged
        died = sessions is Sessions.NONE
        await self._leases.take_over(arrivals, token, died=died)
        self._record(TakenOver(len(arrivals), token))
        self._come_back(arrivals)
