"""The watch over ranges that are leased elsewhere: they have *not* ended.

Every CHECK_INTERVAL_S, one call reads their lease states. Ranges with a done marker have ended; free ranges are
claimed again. The ranges of a dead lease owner are taken over: first its database sessions are ended, which frees its
locks, then its leases are broken, then any listener claims the ranges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.lease_owners import LeaseOwners
from oncecast.core.leases import Claims
from oncecast.core.ports import CrashLog, DatabaseConnections, Sessions
from oncecast.core.ranges import Range
from oncecast.core.telemetry import Record, TakenOver
from oncecast.listener.dependencies.gates import HEARTBEAT_INTERVAL_S, LeaseGate

CHECK_INTERVAL_S = 0.5
DEAD_AFTER_S = 4.0
SILENT_S = DEAD_AFTER_S - HEARTBEAT_INTERVAL_S
"""A lease owner without a heartbeat that ran a statement within this time is alive, and has only lost Redis."""


class Takeovers:
    """The ranges that other listeners have leased, each with the token of its lease owner."""

    def __init__(
        self, leases: LeaseGate, store: DatabaseConnections, crash_log: CrashLog, clock: Clock, *, record: Record
    ) -> None:
        self._leases = leases
        self._store = store
        self._crash_log = crash_log
        self._clock = clock
        self._record = record
        self._watched: list[tuple[Range, str]] = []
        self._owners = LeaseOwners(DEAD_AFTER_S)

    def add(self, leased_elsewhere: Iterable[tuple[Range, str]]) -> None:
        """Watch these ranges."""
        self._watched.extend(leased_elsewhere)

    @property
    def count(self) -> int:
        """The number of events in the watched ranges."""
        return sum(each.unended for each, _ in self._watched)

    async def peek(self) -> Claims:
        """Return the lease states of all watched ranges, and watch them no longer."""
        watched, self._watched = self._watched, []
        return await self._leases.peek([each for each, _ in watched if each.is_open])

    async def take_over(self, leased_elsewhere: Iterable[tuple[Range, str]]) -> list[Range]:
        """Return the ranges whose owner is dead, after freeing them; watch the others."""
        by_owner: dict[str, list[Range]] = defaultdict(list)
        for each, token in leased_elsewhere:
            by_owner[token].append(each)
        taken_over = []
        for token in await self._dead(by_owner):
            if await self._take_over(token, by_owner[token]):
                taken_over += by_owner.pop(token)
        # rule: a range leased by another listener is watched until it ends
        self.add((each, token) for token, ranges in by_owner.items() for each in ranges)
        return taken_over

    async def _dead(self, tokens: Iterable[str]) -> list[str]:
        asked_s = self._clock.monotonic_s()
        counters = await self._leases.counters(sorted(tokens))
        if counters is None:  # Redis may have been frozen: observe the counters afresh when it is back
            self._owners.forget(tokens)
            return []
        return self._owners.observe(counters, asked_s, self._clock.monotonic_s())

    async def _take_over(self, token: str, ranges: list[Range]) -> bool:
        """Free the ranges of a dead owner; return False if it lives, or if PostgreSQL cannot tell."""
        try:
            sessions = await self._store.end_sessions(token, silent_s=SILENT_S)
            if sessions is Sessions.IN_USE:
                return False
            # rule: only a proven death is charged
            died = sessions is Sessions.NONE
            if died:
                await self._crash_log.count_crash(token)
        except (Unavailable, RowLocked):  # nothing can end without PostgreSQL: the next check tries again
            return False
        await self._leases.take_over(ranges, token, died=died)
        self._record(TakenOver(sum(each.unended for each in ranges), token))
        return True
