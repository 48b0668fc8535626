"""What a suspect is attempted under: it stands somewhere that outlives us, so that we are counted if we die of it.

With its lease it stands in Redis, and whoever rescues us counts. Without, it stands in PostgreSQL, and the process
that comes after us under our name counts.
"""

from __future__ import annotations

import contextlib

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import SUSPECT_RESCUES
from oncecast.core.ports import Deaths
from oncecast.listener.dependencies.gates import LeaseGate


class Trial:
    """Counts who died of a suspect. There is one at a time, since each is attempted alone."""

    def __init__(self, leases: LeaseGate, deaths: Deaths) -> None:
        self._leases = leases
        self._deaths = deaths
        self._stands_in_postgres = False

    async def begin(self, suspect: Arrival) -> int:
        """We attempt it, alone, from now on; how many processes have died of that so far. Raises Unavailable."""
        if suspect.leased and self._leases.is_up:
            await self._leases.accuse(suspect, True)
            return suspect.rescues - SUSPECT_RESCUES
        self._stands_in_postgres = True
        return await self._deaths.accuse(suspect)

    async def end(self, suspect: Arrival) -> None:
        """We live. Where PostgreSQL cannot be told, the event has not ended, comes back, and it is told then."""
        if not self._stands_in_postgres:
            await self._leases.accuse(suspect, False)
            return
        self._stands_in_postgres = False
        with contextlib.suppress(Unavailable):
            await self._deaths.acquit(suspect)
