"""The emission station: what handlers have emitted goes from the outbox to a producer.

One listener of the group is at it at a time. An event leaves the outbox when the producer has acknowledged it; one
that is published again, because that was not known, is a duplicate by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from oncecast.core.errors import EmissionRefused, RowLocked, Unavailable
from oncecast.core.facts import EmissionRefused as Refused
from oncecast.core.facts import EmissionsHeldUp, EmissionsRelayed, Observe
from oncecast.core.ports import Outbox, Publish
from oncecast.core.retry import backoff
from oncecast.listener.gates import DatabaseGate
from oncecast.tasks import STALL_S, idle, working

LOOK_INTERVAL_S = 1.0
"""Another listener may have died with events in the outbox."""
SOON_S = 0.02
"""When somebody else was at it, or there was nothing yet, and we know of more."""
CHUNK_EVENTS = 500
CHUNK_BYTES = 1024 * 1024
PUBLISH_S = 15.0
"""How long a chunk may take to be published: one request may take 10 s, and a chunk several."""
RETRY_MAX_S = 10.0


class NotPublished(Unavailable):
    """No producer has acknowledged what is in the outbox."""


class Emissions:
    """Relays what is in `outbox` by `publish`: when woken, and about every second."""

    def __init__(self, outbox: Outbox, publish: Publish, database: DatabaseGate, *, observe: Observe) -> None:
        self._outbox = outbox
        self._publish = publish
        self._database = database
        self._observe = observe
        self._woken = asyncio.Event()
        self._failures = 0
        self._chunk = CHUNK_EVENTS
        self.held_up: str | None = None
        """Why nothing can be relayed just now, if that is so."""

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def relay_for_ever(self) -> None:
        """Relay whenever there is something to."""
        while True:
            idle()
            woken = await self._wait()
            await self._database.wait()
            self._woken.clear()
            if not await self._relay() and woken:
                await asyncio.sleep(SOON_S)
                await self._relay()

    async def _wait(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL_S):
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
                self._chunk = min(2 * self._chunk, CHUNK_EVENTS)
                self._observe(EmissionsRelayed(relayed))
        except EmissionRefused as error:
            self._observe(Refused(str(error)))
            self._woken.set()
        except (Unavailable, RowLocked) as error:
            await self._hold_up(error)
            return count
        self.held_up = None
        self._failures = 0
        return count

    async def _relay_chunk(self) -> int:
        return await self._outbox.relay(
            self._publish_in_time, limit=self._chunk, max_bytes=CHUNK_BYTES, within_s=PUBLISH_S
        )

    async def _publish_in_time(self, events: Sequence[bytes]) -> None:
        try:
            async with asyncio.timeout(PUBLISH_S):
                await self._publish(events)
        except TimeoutError:
            raise NotPublished(f"no producer took {len(events)} events within {PUBLISH_S:g} s") from None
        except Unavailable as error:
            raise NotPublished(str(error)) from error

    async def _hold_up(self, error: Exception) -> None:
        if isinstance(error, NotPublished):  # PostgreSQL's trouble is reported as that, and the outbox may be empty
            if self.held_up is None:
                self._observe(EmissionsHeldUp(str(error)))
            self.held_up = str(error)
        self._failures += 1
        self._chunk = max(1, self._chunk // 2)  # they may have been too many for the time that there is
        await asyncio.sleep(backoff(self._failures + 1, base_s=0.2, max_s=RETRY_MAX_S, jitter=0.0))
