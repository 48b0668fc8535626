"""The outbox relay: publish the events that handlers emitted.

One listener of the group relays at a time. An event leaves the outbox when a producer has acknowledged it; if the
acknowledgement is lost, the event is published again and recognised as a duplicate by its id.
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
from oncecast.core.telemetry import EmissionDropped, EmissionsRelayed, OutboxBlocked, Record
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

CHECK_INTERVAL_S = 1.0
"""Between checks for events that a crashed listener left in the outbox."""
RECHECK_S = 0.02
"""The delay before a second try, after another listener was relaying or the commit was not yet visible."""
CHUNK_BYTES = 1024 * 1024
RETRY = Backoff(base_s=0.2, max_s=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """The number of events per publication, and the time that it may take."""

    chunk_events: int = 500
    publish_s: float = 15.0
    """One request may take 10 s, and a chunk takes several requests."""


class NotPublished(Unavailable):
    """No producer has acknowledged the events."""


class Emissions:
    """Relays the events of `outbox` with `publish`: when woken, and every CHECK_INTERVAL_S."""

    def __init__(
        self,
        outbox: Outbox,
        publish: Publish,
        database: DatabaseGate,
        clock: Clock,
        *,
        limits: RelayLimits = RelayLimits(),
        record: Record,
    ) -> None:
        self._outbox = outbox
        self._publish = publish
        self._database = database
        self._clock = clock
        self._limits = limits
        self._record = record
        self._woken = asyncio.Event()
        self._failures = 0
        self._chunk = limits.chunk_events
        self.blocked: str | None = None
        """Why the relay is blocked; None while it works."""

    def wake(self) -> None:
        """Relay new events soon."""
        self._woken.set()

    async def relay_loop(self) -> None:
        """Relay events until cancelled."""
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
        """Relay all events, or as many as possible; return how many were relayed."""
        count = 0
        try:
            working(STALL_S)
            while (relayed := await self._relay_chunk()) > 0:
                working(STALL_S)
                count += relayed
                self._failures = 0
                self._chunk = min(2 * self._chunk, self._limits.chunk_events)
                self._record(EmissionsRelayed(relayed))
        except EmissionRefused as error:
            self._record(EmissionDropped(str(error)))
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
        if isinstance(error, NotPublished):  # outages of PostgreSQL are reported elsewhere
            if self.blocked is None:
                self._record(OutboxBlocked(str(error)))
            self.blocked = str(error)
        self._failures += 1
        self._chunk = max(1, self._chunk // 2)  # a smaller chunk may fit into the time
        await self._clock.sleep(RETRY.delay_s(self._failures + 1, jitter=0.0))
