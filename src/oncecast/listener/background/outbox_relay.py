"""The emission station: what handlers have emitted goes from the outbox to a producer.

One listener of the group is at it at a time. An event leaves the outbox when the producer has acknowledged it; one
that is published again, because that was not known, is a duplicate by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from oncecast.core.clock import Clock
from oncecast.core.errors import EmissionRefused, RowLocked, Unavailable
from oncecast.core.ports import Outbox, Publish
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import EmissionDropped, EmissionsRelayed, Emit, OutboxBlocked
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHECK_INTERVAL_S = 1.0
"""Another listener may have died with events in the outbox."""
RECHECK_S = 0.02
"""When somebody else was at it, or there was nothing yet, and we know of more."""
CHUNK_BYTES = 1024 * 1024
RETRY = Backoff(base_s=0.2, max_s=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """How many events are published at a time, and how long that may take."""

    chunk_events: int = 500
    publish_s: float = 15.0
    """One request may take 10 s, and a chunk several."""


class NotPublished(Unavailable):
    """No producer has acknowledged what is in the outbox."""


class Emissions:
    """Relays what is in `outbox` by `publish`: when woken, and about every second."""

    def __init__(
        self,
        outbox: Outbox,
        publish: Publish,
        database: DatabaseGate,
        clock: Clock,
        *,
        limits: RelayLimits = RelayLimits(),
        emit: Emit,
    ) -> None:
        self._outbox = outbox
        self._publish = publish
        self._database = database
        self._clock = clock
        self._limits = limits
        self._emit = emit
        self._woken = asyncio.Event()
        self._failures = 0
        self._chunk = limits.chunk_events
        self.blocked: str | None = None
        """Why nothing can be relayed just now, if that is so."""

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def relay_loop(self) -> None:
        """Relay whenever there is something to."""
        while True:
            idle()
            woken = await self._wait()
            await self._database.wait()
            self._woken.clear()
            if not await self._relay() and woken:
                await self._clock.sleep(RECHECK_S)
                await self._relay()

    async def _wait(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_INTERVAL_S):
                await self._woken.wait()
        return self._woken.is_set()

    async def _relay(self) -> int:
        """Relay all there is, and return how many events that were; where it is held up, those before."""
        count = 0
        try:
            working(STALL_S)
            while (relayed := await self._relay_chunk()) > 0:
                working(STALL_S)
                count += relayed
                self._failures = 0
                self._chunk = min(2 * self._chunk, self._limits.chunk_events)
                self._emit(EmissionsRelayed(relayed))
        except EmissionRefused as error:
            self._emit(EmissionDropped(str(error)))
            self._woken.set()
        except (Unavailable, RowLocked) as error:
            await self._hold_up(error)
            return count
        self.blocked = None
        self._failures = 0
        return count

    async def _relay_chunk(self) -> int:
        return await self._outbox.relay(
            self._publish_in_time, limit=self._chunk, max_bytes=CHUNK_BYTES, within_s=self._limits.publish_s
        )

    async def _publish_in_time(self, events: Sequence[bytes]) -> None:
        try:
            async with asyncio.timeout(self._limits.publish_s):
                await self._publish(events)
        except TimeoutError:
            within_s = self._limits.publish_s
            raise NotPublished(f"no producer took {len(events)} events within {within_s:g} s") from None
        except Unavailable as error:
            raise NotPublished(str(error)) from error

    async def _hold_up(self, error: Exception) -> None:
        if isinstance(error, NotPublished):  # PostgreSQL's trouble is reported as that, and the outbox may be empty
            if self.blocked is None:
                self._emit(OutboxBlocked(str(error)))
            self.blocked = str(error)
        self._failures += 1
        self._chunk = max(1, self._chunk // 2)  # they may have been too many for the time that there is
        await self._clock.sleep(RETRY.delay_s(self._failures + 1, jitter=0.0))
