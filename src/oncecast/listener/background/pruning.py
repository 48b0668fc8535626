"""How long rows are kept: the oldest go in small batches, never above a saved cursor; dead letters stay.

The transaction that ends an event deletes the count of its failed attempts. Two kinds of counts are deleted here: one
that a race between two listeners left, and one of an event that nobody attempts any more, since its journal or its
offset was given up.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import EventStore
from oncecast.core.retry import jittered
from oncecast.core.telemetry import Emit, Pruned
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHUNK_ROWS = 1_000
INTERVAL_S = 30.0
ATTEMPTS_OVERDUE_S = timedelta(days=30).total_seconds()
"""How long after its next attempt was due the count of an event's failed attempts is deleted."""
CHUNK_PAUSE_S = 0.05
"""Between chunks: inserts come first."""


class Pruner:
    """Deletes rows that are older than `keep_s`; None keeps them for ever."""

    def __init__(
        self, store: EventStore, database: DatabaseGate, clock: Clock, *, keep_s: float | None, emit: Emit
    ) -> None:
        self._store = store
        self._clock = clock
        self._database = database
        self._keep_s = keep_s
        self._emit = emit

    async def prune_loop(self) -> None:
        """Every half minute, with jitter, so that the listeners of a group do not always meet."""
        interval_s = min(INTERVAL_S, self._keep_s or INTERVAL_S)
        while True:
            idle()
            await self._database.wait()
            working(2 * STALL_S)
            with contextlib.suppress(Unavailable, RowLocked):  # the inserts will find out; old rows only get older
                await self._store.prune_attempts(overdue_s=ATTEMPTS_OVERDUE_S)
                if self._keep_s is not None:
                    await self._prune(self._keep_s)
            await self._clock.sleep(jittered(interval_s, self._clock.random()))

    async def _prune(self, keep_s: float) -> None:
        count = 0
        while chunk := await self._store.prune(older_than_s=keep_s, limit=CHUNK_ROWS):
            count += chunk
            working(2 * STALL_S)
            await self._clock.sleep(CHUNK_PAUSE_S)
        if count:
            self._emit(Pruned(count))
