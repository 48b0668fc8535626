"""What readers may take of the event loop: while events are being published, a tenth; otherwise what nobody needs.

All readers take from one budget, in slices of about a millisecond and in turn, so that none gets ahead of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oncecast.core.clock import Clock

SHARE = 0.1
"""Of the event loop's time, while events are being published."""
AFTERWARDS_S = 0.003
"""So long after a publication its publisher may be about to send the next."""
SLICE_EVENTS = 16
SLICE_BYTES = 64 * 1024
"""What a reader sends at a time."""
EVENT_MAX_S = 0.0002
"""What an event costs at most: a reader that had to wait for its own network has not worked meanwhile."""


class ReadBudget:
    """The budget of all readers of a producer; their work is measured by `monotonic_s`."""

    def __init__(self, clock: Clock) -> None:
        self.monotonic_s = clock.monotonic_s
        self._sleep = clock.sleep
        self._publications = 0
        self._published_at_s = -AFTERWARDS_S
        self._free_at_s = 0.0

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While this lasts, readers keep to their share."""
        self._publications += 1
        try:
            yield
        finally:
            self._publications -= 1
            self._published_at_s = self.monotonic_s()

    async def spend(self, worked_s: float) -> None:
        """Wait until a reader that has worked for `worked_s` may go on; let other tasks run in any case."""
        now_s = self.monotonic_s()
        is_busy = self._publications > 0 or now_s < self._published_at_s + AFTERWARDS_S
        cost_s = worked_s / SHARE if is_busy else worked_s
        self._free_at_s = max(self._free_at_s, now_s - worked_s) + cost_s
        await self._sleep(max(0.0, self._free_at_s - now_s))

    async def spend_since(self, begun_s: float, events: int, *, weight: float = 1.0) -> None:
        """Spend the time since `begun_s` (of `monotonic_s`), in which a slice of `events` events was sent."""
        await self.spend(weight * min(self.monotonic_s() - begun_s, (events + 1) * EVENT_MAX_S))
