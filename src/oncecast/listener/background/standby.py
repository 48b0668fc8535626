"""Standby: a listener that lacks handlers of the group's application does not work, so that no handler is skipped.

PostgreSQL records the handlers of the group's newest application. A listener with more handlers records its own; one
that lacks any goes on standby. Inserts name their record and fail unless it is the newest, so a listener that has not
yet seen a newer record ends no event.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import HandlerRegistry
from oncecast.core.telemetry import Record, StandbyEntered
from oncecast.tasks import STALL_S, working

INTERVAL_S = 1.0


class Standby:
    """Asks every INTERVAL_S. `force` records this application once, even if it lacks handlers."""

    def __init__(
        self, store: HandlerRegistry, selectors: frozenset[str], clock: Clock, *, force: bool, record: Record
    ) -> None:
        self._store = store
        self._clock = clock
        self._selectors = selectors
        self._force = force
        self._record = record
        self._reported: str | None = None
        self.reason: str | None = None
        """Why this listener is on standby; None if it is not."""
        self.allowed = asyncio.Event()
        self.lost = asyncio.Event()

    @property
    def standby_reason(self) -> str | None:
        """Why this listener may not work now; None if it may."""
        return self.reason or (None if self.allowed.is_set() else "it is starting")

    async def watch_loop(self) -> None:
        """Ask every INTERVAL_S, until `lost` is set: then this listener must stop working."""
        while True:
            working(STALL_S)
            if not self.lost.is_set():
                await self.ask()
            await self._clock.sleep(INTERVAL_S)

    async def ask(self) -> None:
        """Ask once; without an answer, change nothing."""
        try:
            missing = await self._store.register_handlers(self._selectors, force=self._force)
        except (Unavailable, RowLocked):
            return
        self._force = False
        if not missing:
            self.reason = None
            self.allowed.set()
            return
        names = ", ".join(sorted(missing)[:5]) + (", …" if len(missing) > 5 else "")
        self.reason = f"the group's application handles {names}, and this one does not"
        if self.allowed.is_set():
            self.lost.set()
        if self.reason != self._reported:
            self._reported = self.reason
            self._record(StandbyEntered(self.reason))
