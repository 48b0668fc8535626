"""The filing station: the line of a dead letter follows its row, at least once, whatever comes between.

The row is the dead letter. Its line is written after it, and the row notes when that was done; so a listener
that comes back files what it left, and at worst writes a line twice.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetterLog
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import EventStore
from oncecast.core.telemetry import DeadLetterLogFailed, DeadLettersLogged, Emit
from oncecast.listener.dead_letters.line import line_of
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHUNK_SIZE = 100
RETRY_INTERVAL_S = 5.0


class DeadLetterLogger:
    """Files what `store` says is unlogged: at the start, when woken, and again after a failure."""

    def __init__(
        self, store: EventStore, log: DeadLetterLog, database: DatabaseGate, clock: Clock, *, emit: Emit
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._database = database
        self._emit = emit
        self._woken = asyncio.Event()
        self._woken.set()

    def wake(self) -> None:
        """There is a new dead letter."""
        self._woken.set()

    async def log_loop(self) -> None:
        """File whenever there is something to; the log is there, empty, before there is."""
        try:
            await self._log.append([])
        except Unavailable as error:
            self._emit(DeadLetterLogFailed(str(error)))
        while True:
            idle()
            await self._woken.wait()
            await self._database.wait()
            working(STALL_S)
            self._woken.clear()
            if not await self.log():
                await self._clock.sleep(RETRY_INTERVAL_S)
                self._woken.set()

    async def log(self) -> bool:
        """File all there is; returns whether that succeeded."""
        if not self._database.is_up:
            return False
        try:
            while dead_letters := await self._store.unlogged(CHUNK_SIZE):
                try:
                    await self._log.append([line_of(dead_letter) for dead_letter in dead_letters])
                except Unavailable as error:
                    self._emit(DeadLetterLogFailed(str(error)))
                    return False
                await self._store.mark_logged(dead_letters)
                for dead_letter in dead_letters:
                    self._emit(DeadLettersLogged(dead_letter.id, str(self._log)))
        except (Unavailable, RowLocked):
            return False  # the database: its gate says so, and the row is not lost
        return True
