"""The open work of the group, counted for health and metrics."""

from __future__ import annotations

import asyncio
import contextlib

from oncecast.core import telemetry as events
from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.open_work import CountsOpenWork, OpenWork

COUNT_INTERVAL_S = 10.0
"""Other listeners of the group change the counts too."""
PAUSE_S = 1.0
"""The minimum delay between two counts."""
PAUSE_RATIO = 20
"""How many times as long as a count takes the next one waits: it uses the connection of all reads."""
_CHANGES = (
    events.ConflictsFound,
    events.ConflictReplayed,
    events.ConflictsDiscarded,
    events.ProcessingFailed,
    events.DeadLettered,
    events.Replayed,
    events.DeadLettersDiscarded,
    events.Restored,
    events.EmissionsRelayed,
    events.OutboxBlocked,
)


class OpenWorkCounts:
    """Counts the open work of the group. `newest` is None until PostgreSQL has answered once."""

    def __init__(self, counts: CountsOpenWork, clock: Clock) -> None:
        self._counts = counts
        self._clock = clock
        self._changed = asyncio.Event()
        self.newest: OpenWork | None = None

    @property
    def conflicts(self) -> int | None:
        """The number of open conflicts, if it is known."""
        return None if self.newest is None else self.newest.conflicts

    def record(self, telemetry: events.TelemetryEvent) -> None:
        """Count soon if this listener has changed a count."""
        if isinstance(telemetry, _CHANGES):
            self._changed.set()

    async def run(self) -> None:
        """Count until cancelled; while PostgreSQL is down, keep the last counts."""
        while True:
            self._changed.clear()
            began_s = self._clock.monotonic_s()
            with contextlib.suppress(Unavailable, RowLocked):
                self.newest = await self._counts.open_work()
            took_s = self._clock.monotonic_s() - began_s
            await self._clock.sleep(max(PAUSE_S, PAUSE_RATIO * took_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNT_INTERVAL_S):
                    await self._changed.wait()
