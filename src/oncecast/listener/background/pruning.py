"""Retention: delete the oldest rows in small batches, never above a saved cursor; dead letters are kept.

The transaction that ends an event deletes its attempt count. The pruner deletes the counts that are left: of a race
between two listeners, or of an event that no listener attempts any more because its journal or offset was given up.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import RowRetention
from oncecast.core.retry import jittered
from oncecast.core.telemetry import Pruned, Record
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHUNK_ROWS = 1_000
INTERVAL_S = 30.0
ATTEMPTS_OVERDUE_S = timedelta(days=30).total_seconds()
"""An attempt count is deleted this long after its next attempt was due."""
CHUNK_PAUSE_S = 0.05
"""The pause between chunks, so that inserts come first."""


class Pruner:
    """Deletes rows that are older than `keep_s`; None keeps all rows."""

    def __init__(
        self, store: RowRetention, database: DatabaseGate, clock: Clock, *, keep_s: float | None, record: Record
    ) -> None:
        self._store = store
        self._clock = clock
        self._database = database
        self._keep_s = keep_s
        self._record = record

    async def prune_loop(self) -> None:
        """Prune every INTERVAL_S, with jitter to keep the listeners of a group apart."""
        interval_s = min(INTERVAL_S, self._keep_s or INTERVAL_S)
        while True:
            idle()
            await self._database.wait()
            working(2 * STALL_S)
            with contextlib.suppress(Unavailable, RowLocked):  # DatabaseGate detects an outage; try again later
                await self._store.prune_attempts(overdue_s=ATTEMPTS_OVERDUE_S)
                if self._keep_s is not None:
                    await self._prune(self._keep_s)
            await self._clock.sleep(jittered(interval_s, self._clock.random()))

    async def _prune(self, keep_s: float) -> None:
        count, up_to = 0, None
        while True:
            chunk, up_to = await self._store.prune(older_than_s=keep_s, limit=CHUNK_ROWS, after=up_to)
            if not chunk:
                break
            count += chunk
            working(2 * STALL_S)
            await self._clock.sleep(CHUNK_PAUSE_S)
        if count:
            self._record(Pruned(count))
