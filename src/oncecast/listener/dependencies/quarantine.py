"""The record of the running quarantined event, which survives a crash of this process and attributes it to the event.

With a lease, the record is in Redis, and the listener that takes over counts the crash. Without a lease, it is in
PostgreSQL, and the next process with the same name counts it.
"""

from __future__ import annotations

import contextlib

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.ports import CrashLog
from oncecast.listener.dependencies.gates import LeaseGate


class Quarantine:
    """Counts the processes that crashed on a quarantined event; one event at a time, since each runs alone."""

    def __init__(self, leases: LeaseGate, crash_log: CrashLog) -> None:
        self._leases = leases
        self._crash_log = crash_log
        self._is_in_postgres = False

    async def begin(self, quarantined: Arrival) -> int:
        """Record that this process runs the event; return how many processes crashed on it. Raises Unavailable."""
        if quarantined.leased and self._leases.is_up:
            await self._leases.begin_isolated(quarantined, True)
            return quarantined.takeovers - QUARANTINE_AFTER_TAKEOVERS
        self._is_in_postgres = True
        return await self._crash_log.begin_isolated(quarantined)

    async def end(self, quarantined: Arrival) -> None:
        """Remove the record. If PostgreSQL is down, the event has not ended; its next attempt removes the record."""
        if not self._is_in_postgres:
            await self._leases.begin_isolated(quarantined, False)
            return
        self._is_in_postgres = False
        with contextlib.suppress(Unavailable):
            await self._crash_log.end_isolated(quarantined)
