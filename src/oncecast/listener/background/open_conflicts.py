"""The number of open conflicts, for health and metrics."""

from __future__ import annotations

import asyncio
import contextlib

from oncecast.core import telemetry as telemetry_events
from oncecast.core.clock import Clock
from oncecast.core.conflicts import Conflicts
from oncecast.core.errors import RowLocked, Unavailable

COUNT_INTERVAL_S = 10.0
"""Other listeners of the group keep and close conflicts too, so the count is refreshed."""
PAUSE_S = 1.0
"""The minimum delay between two counts."""
_CHANGES = (telemetry_events.ConflictsFound, telemetry_events.ConflictReplayed, telemetry_events.ConflictsDiscarded)


class OpenConflicts:
    """Counts the open conflicts of the group. `count` is None until PostgreSQL has answered once."""

    def __init__(self, conflicts: Conflicts, clock: Clock) -> None:
        self._conflicts = conflicts
        self._clock = clock
        self._changed = asyncio.Event()
        self.count: int | None = None

    def record(self, telemetry: telemetry_events.TelemetryEvent) -> None:
        """Count soon if this listener has kept or closed a conflict."""
        if isinstance(telemetry, _CHANGES):
            self._changed.set()

    async def run(self) -> None:
        """Count until cancelled; while PostgreSQL is down, keep the last number."""
        while True:
            self._changed.clear()
            with contextlib.suppress(Unavailable, RowLocked):
                self.count = await self._conflicts.count()
            await self._clock.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNT_INTERVAL_S):
                    await self._changed.wait()
