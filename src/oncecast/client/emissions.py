"""Publish the events that handlers emitted to one of the group's producers, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

from oncecast.client.errors import NotAcknowledged, PublishRefused
from oncecast.client.publisher import Publisher
from oncecast.client.transport import TOO_LARGE
from oncecast.core.clock import Clock
from oncecast.core.errors import EmissionRefused, Unavailable

DEADLINE_S = 10.0
RETURN_S = 60.0
"""The wait before the first producer is tried again, so that all listeners of a group use the same producer.

It doubles after each failure, up to RETURN_MAX_S, because a try holds up the relay."""
RETURN_MAX_S = 1_800.0


class ProducersPublisher:
    """Publishes to the first of `producers` that answers, because only one journal keeps an order."""

    def __init__(
        self, producers: Sequence[str], clock: Clock, *, token: str | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        # One request at a time: two could be accepted in the wrong order.
        publisher = partial(
            Publisher, token=token, deadline_s=deadline_s, requests_max=1, on_trouble=_ignore, clock=clock
        )
        self._publishers = [publisher(url) for url in producers]
        self._monotonic_s = clock.monotonic_s
        self._at = 0
        self._return_s = RETURN_S
        self._moved_at_s = 0.0

    async def publish(self, events: Sequence[bytes]) -> None:
        """Publish `events` in order; raises EmissionRefused for an invalid event, Unavailable otherwise."""
        if not self._at or self._monotonic_s() < self._moved_at_s + self._return_s:
            await self._publish(events, 0)
            return
        works, self._at = self._at, 0
        try:
            await self._publish(events, 0)
            self._return_s = RETURN_S
        except EmissionRefused:
            raise
        except BaseException:  # also a cancellation: go back to the producer that works
            self._at, self._moved_at_s = works, self._monotonic_s()
            self._return_s = min(2 * self._return_s, RETURN_MAX_S)
            raise

    async def _publish(self, events: Sequence[bytes], first: int) -> None:
        """Publish a part of the call's events, which begins at index `first`."""
        try:
            await self._publishers[self._at].publish_json(_one_chunk(events))
        except PublishRefused as error:
            if error.position is not None:
                raise EmissionRefused(str(error), first + error.position - 1) from error
            if error.status != TOO_LARGE or len(events) < 2:
                raise Unavailable(str(error)) from error  # not an event's fault: an operator can fix it
            half = len(events) // 2  # perhaps they are too large only together
            await self._publish(events[:half], first)
            await self._publish(events[half:], first + half)
        except NotAcknowledged as error:
            self._at = (self._at + 1) % len(self._publishers)
            self._moved_at_s = self._monotonic_s()
            raise Unavailable(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        for publisher in self._publishers:
            await publisher.aclose()


async def _one_chunk(events: Sequence[bytes]) -> AsyncIterator[tuple[Sequence[bytes], Sequence[int]]]:
    yield events, range(1, len(events) + 1)


def _ignore(_reason: str) -> None:
    """Ignore the reason: the relay reports it after the deadline."""
