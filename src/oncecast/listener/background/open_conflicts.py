"""The number of open conflicts, for health and metrics."""

from __future__ import annotations

import asyncio
import contextlib

from oncecast.core import telemetry as telemetry_events
from oncecast.core.clock import Clock
from oncecast.core.conflicts import Conflicts
from oncecast.core.errors import RowLocked, Unavailable

COUNT_INTERVAL_S = 10.0
"""Another listener of the group may keep or close a conflict: so it is counted now and then."""
PAUSE_S = 1.0
"""Between two counts, however many conflicts arrive."""
_CHANGES = (telemetry_events.ConflictsFound, telemetry_events.ConflictReplayed, telemetry_events.ConflictsDiscarded)


class OpenConflicts:
    """Counts a group's open conflicts. `count` is None until PostgreSQL has answered once."""

    def __init__(self, conflicts: Conflicts, clock: Clock) -> None:
        self._conflicts = conflicts
        self._clock = clock
        self._changed = asyncio.Event()
        self.count: int | None = None

    def emit(self, telemetry: telemetry_events.TelemetryEvent) -> None:
        """Count soon after a conflict was kept or closed here."""
        if isinstance(telemetry, _CHANGES):
            self._changed.set()

    async def run(self) -> None:
        """Count until cancelled; while PostgreSQL is down, the last number stands."""
        while True:
            self._changed.clear()
            with contextlib.suppress(Unavailable, RowLocked):
                self.count = await self._conflicts.count()
            await self._clock.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNT_INTERVAL_S):
                    await self._changed.wait()
