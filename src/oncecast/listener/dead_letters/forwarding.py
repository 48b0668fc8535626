"""Forward each dead letter to the broker of `DEAD_LETTER_URL`, at least once.

It is read from its row, so that neither a restart nor an outage of the broker loses one. Only dead letters wait for
the broker. Each listener forwards its own; after a minute any listener forwards those that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetter, DeadLetterBroker, UnforwardedDeadLetters
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.retry import Backoff, jittered
from oncecast.core.telemetry import DependencyLost, DependencyReady, DependencyTried, ForwardingRefused, Record, Sent
from oncecast.listener.dead_letters.line import message_of
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

DEPENDENCY = "broker"
CHUNK_SIZE = 20
"""The maximum number of dead letters in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingTimes:
    """When the forwarder checks for unsent dead letters again."""

    recheck_s: float = 15.0
    """Between checks for dead letters of other listeners, and whether the broker can be reached."""
    recheck_soon_s: float = 1.0
    """Between checks while some are unsent: the logger or another listener may have locked their rows."""
    retry: Backoff = Backoff(base_s=1.0, max_s=30.0)
    """After a failure."""


class DeadLetterForwarder:
    """Forwards the unsent dead letters: at the start, when woken, periodically, and again after a failure."""

    def __init__(
        self,
        dead_letters: UnforwardedDeadLetters,
        broker: DeadLetterBroker,
        database: DatabaseGate,
        clock: Clock,
        *,
        times: SendingTimes = SendingTimes(),
        record: Record,
    ) -> None:
        self.unforwarded: int | None = None
        """The number of unsent dead letters of the group at the last check; None before it."""
        self._dead_letters = dead_letters
        self._broker = broker
        self._database = database
        self._clock = clock
        self._times = times
        self._record = record
        self._is_up: bool | None = None
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def is_up(self) -> bool:
        """Whether the broker accepted the last messages."""
        return self._is_up is True

    def wake(self) -> None:
        """Forward a new dead letter soon."""
        self._woken.set()

    async def begin(self) -> None:
        """Register this forwarder, so that dead letters wait for it. Await it before any event is attempted.

        Raises Unavailable.
        """
        await self._dead_letters.begin()

    async def send_loop(self) -> None:
        """Forward dead letters until cancelled; after failures, retry with an increasing delay."""
        failures = 0
        self._record(DependencyTried(DEPENDENCY))
        while True:
            idle()
            await self._database.wait()
            self._woken.clear()
            if await self.send():
                failures = 0
                interval_s = self._times.recheck_soon_s if self.unforwarded else self._times.recheck_s
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(jittered(interval_s, self._clock.random())):
                        await self._woken.wait()
            else:
                failures += 1
                await self._clock.sleep(self._times.retry.delay_s(failures + 1, self._clock.random()))

    async def drain(self, timeout_s: float) -> None:
        """Forward what is unsent, for up to `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.send()

    async def close(self) -> None:
        """Close the connection to the broker."""
        await self._broker.close()

    async def send(self) -> bool:
        """Forward all unsent dead letters; return whether that succeeded."""
        if not self._database.is_up:
            return False
        async with self._turn:
            try:
                await self._dead_letters.begin()  # a restored PostgreSQL may lack the registration
                succeeded = await self._reach() and await self._send_all()
                self.unforwarded = await self._dead_letters.count()
            except (Unavailable, RowLocked):
                return False  # DatabaseGate reports it; the rows are still there
            if succeeded and (self._is_up is None or not self.unforwarded):
                self._back()
            return succeeded

    async def _reach(self) -> bool:
        try:
            await self._broker.open()
        except Unavailable as error:
            self._lost(str(error))
            return False
        return True

    async def _send_all(self) -> bool:
        while dead_letters := await self._dead_letters.claim(CHUNK_SIZE):
            working(STALL_S)
            try:
                answers = await self._broker.send(
                    [message_of(dead_letter, self._broker.max_bytes) for dead_letter in dead_letters]
                )
            except Unavailable as error:
                self._lost(str(error))
                await self._dead_letters.release(dead_letters)
                return False
            if not await self._note(dead_letters, answers):
                return False
        return True

    async def _note(self, dead_letters: list[DeadLetter], refusals: list[str | None]) -> bool:
        """Record the sent dead letters; return whether any was sent.

        A refused one stays claimed, so that the next claim returns others.
        """
        sent = [dead_letter for dead_letter, refusal in zip(dead_letters, refusals, strict=True) if refusal is None]
        if not sent:
            self._lost(f"{self._broker} refuses the dead letters: {refusals[0]}")
            return False
        await self._dead_letters.mark_forwarded(sent)
        self._back()
        for dead_letter, refusal in zip(dead_letters, refusals, strict=True):
            if refusal is None:
                self._record(Sent(dead_letter.id, str(self._broker)))
            else:
                self._record(ForwardingRefused(dead_letter.id, str(self._broker), refusal))
        return True

    def _lost(self, error: str) -> None:
        if self._is_up is not False:
            self._is_up = False
            self._record(DependencyLost(DEPENDENCY, error))

    def _back(self) -> None:
        if not self._is_up:
            self._is_up = True
            self._record(DependencyReady(DEPENDENCY))
