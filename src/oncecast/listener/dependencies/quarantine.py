"""What a suspect is attempted under: it stands somewhere that outlives us, so that we are counted if we die of it.

With its lease it stands in Redis, and whoever rescues us counts. Without, it stands in PostgreSQL, and the process
that comes after us under our name counts.
"""

from __future__ import annotations

import contextlib

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.ports import CrashLog
from oncecast.listener.dependencies.gates import LeaseGate


class Quarantine:
    """Counts who died of a suspect. There is one at a time, since each is attempted alone."""

    def __init__(self, leases: LeaseGate, crash_log: CrashLog) -> None:
        self._leases = leases
        self._crash_log = crash_log
        self._is_in_postgres = False

    async def begin(self, quarantined: Arrival) -> int:
        """We attempt it, alone, from now on; how many processes have died of that so far. Raises Unavailable."""
        if quarantined.leased and self._leases.is_up:
            await self._leases.begin_isolated(quarantined, True)
            return quarantined.takeovers - QUARANTINE_AFTER_TAKEOVERS
        self._is_in_postgres = True
        return await self._crash_log.begin_isolated(quarantined)

    async def end(self, quarantined: Arrival) -> None:
        """We live. Where PostgreSQL cannot be told, the event has not ended, comes back, and it is told then."""
        if not self._is_in_postgres:
            await self._leases.begin_isolated(quarantined, False)
            return
        self._is_in_postgres = False
        with contextlib.suppress(Unavailable):
            await self._crash_log.end_isolated(quarantined)
