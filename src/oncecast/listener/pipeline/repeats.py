"""Compare repeated arrivals of ended identities with their rows, in batches.

PostgreSQL decides whether each is a duplicate or a conflict, and keeps the conflicts. No handler runs and nothing is
claimed. If the comparison fails (the row is missing, PostgreSQL is down), the first arrival is attempted as any
event, and the others wait for it again.
"""

from __future__ import annotations

import contextlib

from oncecast.core.errors import OncecastError
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import EventStore
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.listener.pipeline.settle import Settlement
from oncecast.tasks import STALL_S, idle, working

BATCH_MAX_EVENTS = 1_000
BATCH_MAX_BYTES = 4 * 1024 * 1024


class Repeats:
    """Ends the repeated arrivals of `settlement`."""

    def __init__(self, store: EventStore, database: DatabaseGate, settlement: Settlement) -> None:
        self._store = store
        self._database = database
        self._settlement = settlement

    async def compare_loop(self) -> None:
        """Compare repeated arrivals, one batch at a time."""
        while True:
            idle()
            await self._settlement.has_repeated.wait()
            await self._database.wait()
            working(STALL_S)
            batch = self._settlement.take_repeated(BATCH_MAX_EVENTS, BATCH_MAX_BYTES)
            outcomes: list[Outcome | None] = [None] * len(batch)
            with contextlib.suppress(OncecastError):  # then an attempt follows, which handles the error
                outcomes = await self._store.compare(batch)
            self._settlement.end_repeated(batch, outcomes)
