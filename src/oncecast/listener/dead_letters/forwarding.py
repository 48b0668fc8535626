"""The sending station: each dead letter goes to the broker of `DEAD_LETTER_URL` too, at least once.

From its row, so that neither a restart nor a broker that is away loses one; and beside everything else, so that
nothing waits for the broker but its letters. Each listener sends its own; what nobody has sent for a minute is
anybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetter, DeadLetterBroker, UnforwardedDeadLetters
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.retry import Backoff, jittered
from oncecast.core.telemetry import DependencyLost, DependencyReady, DependencyTried, Emit, ForwardingRefused, Sent
from oncecast.listener.dead_letters.line import message_of
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

NAME = "broker"
CHUNK_SIZE = 20
"""So many events are in memory at a time, of whatever size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingTimes:
    """When the sender looks for unsent dead letters again."""

    recheck_s: float = 15.0
    """Between looks for what others have left, and whether the broker is there."""
    recheck_soon_s: float = 1.0
    """Between looks while some are unsent: the filing station may have been at their rows, or another listener."""
    retry: Backoff = Backoff(base_s=1.0, max_s=30.0)
    """After a failure."""


class DeadLetterForwarder:
    """Sends what `letters` says is unsent: at the start, when woken, now and then, and again after a failure."""

    def __init__(
        self,
        dead_letters: UnforwardedDeadLetters,
        broker: DeadLetterBroker,
        database: DatabaseGate,
        clock: Clock,
        *,
        times: SendingTimes = SendingTimes(),
        emit: Emit,
    ) -> None:
        self.unforwarded: int | None = None
        """How many of the group's wait, when that was last looked at."""
        self._dead_letters = dead_letters
        self._broker = broker
        self._database = database
        self._clock = clock
        self._times = times
        self._emit = emit
        self._is_up: bool | None = None
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def is_up(self) -> bool:
        """Whether the broker takes messages, as far as is known."""
        return self._is_up is True

    def wake(self) -> None:
        """There is a new dead letter."""
        self._woken.set()

    async def begin(self) -> None:
        """Nothing that dies from now on goes unsent; raises Unavailable. To be awaited before anything can die."""
        await self._dead_letters.begin()

    async def send_loop(self) -> None:
        """Send whenever there is something to; a broker that is away is tried less and less often, without end."""
        failures = 0
        self._emit(DependencyTried(NAME))
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
        """Send what there is, for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.send()

    async def close(self) -> None:
        """Leave the broker."""
        await self._broker.close()

    async def send(self) -> bool:
        """Send all there is; returns whether that succeeded."""
        if not self._database.is_up:
            return False
        async with self._turn:
            try:
                await self._dead_letters.begin()  # PostgreSQL may have gone back to where it had not
                succeeded = await self._reach() and await self._send_all()
                self.unforwarded = await self._dead_letters.count()
            except (Unavailable, RowLocked):
                return False  # the database: its gate says so, and the rows are not lost
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
        """Note what was sent; whether anything was. What was refused stays claimed: others are next in turn."""
        sent = [dead_letter for dead_letter, refusal in zip(dead_letters, refusals, strict=True) if refusal is None]
        if not sent:
            self._lost(f"{self._broker} refuses them: {refusals[0]}")
            return False
        await self._dead_letters.mark_forwarded(sent)
        self._back()
        for dead_letter, refusal in zip(dead_letters, refusals, strict=True):
            if refusal is None:
                self._emit(Sent(dead_letter.id, str(self._broker)))
            else:
                self._emit(ForwardingRefused(dead_letter.id, str(self._broker), refusal))
        return True

    def _lost(self, error: str) -> None:
        if self._is_up is not False:
            self._is_up = False
            self._emit(DependencyLost(NAME, error))

    def _back(self) -> None:
        if not self._is_up:
            self._is_up = True
            self._emit(DependencyReady(NAME))
