"""Whether this listener may work: one application per group, so that no event ends without its handler.

The handlers of the group's newest application are recorded in PostgreSQL. A listener that has more of them records
its own; one that lacks any stands by. Inserts go in only in the name of the newest record, so that a listener that
has not yet heard of it ends nothing either.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import EventStore
from oncecast.core.telemetry import Emit, StandbyEntered
from oncecast.tasks import STALL_S, working

INTERVAL_S = 1.0


class Standby:
    """Asks about every second. `adopt` makes this application the group's once, though it lacks handlers."""

    def __init__(
        self, store: EventStore, selectors: frozenset[str], clock: Clock, *, force: bool, emit: Emit
    ) -> None:
        self._store = store
        self._clock = clock
        self._selectors = selectors
        self._force = force
        self._emit = emit
        self._reported: str | None = None
        self.reason: str | None = None
        """Why it stands by, if it does."""
        self.allowed = asyncio.Event()
        self.lost = asyncio.Event()

    @property
    def standby_reason(self) -> str | None:
        """Why it may not work now, if it may not."""
        return self.reason or (None if self.allowed.is_set() else "it has just begun")

    async def watch_loop(self) -> None:
        """Ask about every second, until `lost` is set: then this listener may not work any more."""
        while True:
            working(STALL_S)
            if not self.lost.is_set():
                await self.ask()
            await self._clock.sleep(INTERVAL_S)

    async def ask(self) -> None:
        """Ask once; without an answer everything stays as it is."""
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
            self._emit(StandbyEntered(self.reason))
