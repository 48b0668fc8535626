"""The readers' share of the event loop: a tenth while events are published, otherwise all idle time.

All readers share one budget, in turns of about a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oncecast.core.clock import Clock

SHARE = 0.1
"""The readers' share of the event loop while events are published."""
AFTERWARDS_S = 0.003
"""How long after a publication the next one is expected."""
SLICE_EVENTS = 16
SLICE_BYTES = 64 * 1024
"""The amount that a reader sends in one turn."""
EVENT_MAX_S = 0.0002
"""The maximum cost of an event, so that a reader does not pay for the time of its network."""


class ReadBudget:
    """The budget of all readers of a producer, in seconds of `monotonic_s`."""

    def __init__(self, clock: Clock) -> None:
        self.monotonic_s = clock.monotonic_s
        self._sleep = clock.sleep
        self._publications = 0
        self._published_at_s = -AFTERWARDS_S
        self._free_at_s = 0.0

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Limit readers to their share while the block runs."""
        self._publications += 1
        try:
            yield
        finally:
            self._publications -= 1
            self._published_at_s = self.monotonic_s()

    async def spend(self, worked_s: float) -> None:
        """Wait until a reader that has worked for `worked_s` may continue; always yields to other tasks."""
        now_s = self.monotonic_s()
        is_busy = self._publications > 0 or now_s < self._published_at_s + AFTERWARDS_S
        cost_s = worked_s / SHARE if is_busy else worked_s
        self._free_at_s = max(self._free_at_s, now_s - worked_s) + cost_s
        await self._sleep(max(0.0, self._free_at_s - now_s))

    async def spend_since(self, begun_s: float, events: int, *, weight: float = 1.0) -> None:
        """Spend the time since `begun_s` (of `monotonic_s`), in which `events` events were sent."""
        await self.spend(weight * min(self.monotonic_s() - begun_s, (events + 1) * EVENT_MAX_S))
