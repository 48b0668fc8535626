"""Append each dead letter to the log file, at least once.

The row is the dead letter. Its line is written after the row, and then the row is marked as logged. So a restarted
listener logs what is left, and at worst writes a line twice.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetterLog, UnloggedDeadLetters
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.telemetry import DeadLetterLogFailed, DeadLettersLogged, Record
from oncecast.listener.dead_letters.line import line_of
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHUNK_SIZE = 100
RETRY_INTERVAL_S = 5.0


class DeadLetterLogger:
    """Logs the dead letters that `store` has as unlogged: at the start, when woken, and again after a failure."""

    def __init__(
        self, store: UnloggedDeadLetters, log: DeadLetterLog, database: DatabaseGate, clock: Clock, *, record: Record
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._database = database
        self._record = record
        self._woken = asyncio.Event()
        self._woken.set()

    def wake(self) -> None:
        """Log a new dead letter soon."""
        self._woken.set()

    async def log_loop(self) -> None:
        """Log dead letters until cancelled; create an empty log file first."""
        try:
            await self._log.append([])
        except Unavailable as error:
            self._record(DeadLetterLogFailed(str(error)))
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
        """Log all unlogged dead letters; return whether that succeeded."""
        if not self._database.is_up:
            return False
        try:
            while dead_letters := await self._store.unlogged(CHUNK_SIZE):
                try:
                    await self._log.append([line_of(dead_letter) for dead_letter in dead_letters])
                except Unavailable as error:
                    self._record(DeadLetterLogFailed(str(error)))
                    return False
                await self._store.mark_logged(dead_letters)
                for dead_letter in dead_letters:
                    self._record(DeadLettersLogged(dead_letter.id, str(self._log)))
        except (Unavailable, RowLocked):
            return False  # DatabaseGate reports it; the row is still there
        return True
