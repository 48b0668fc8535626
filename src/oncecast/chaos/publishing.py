"""Publish without pause, and record every event that was sent and every one that was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from oncecast.chaos.judge import identity
from oncecast.client.errors import NotAcknowledged
from oncecast.client.publisher import Publisher
from oncecast.event import Event

INTERVAL_S = 0.05
DEADLINE_S = 600.0


@dataclass(slots=True)
class Publications:
    """What the publishers know, by `identity`."""

    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)


class LoadPublisher:
    """Publishes `events` to the producer at `url`; repeats each batch until it is acknowledged."""

    def __init__(self, url: str, publications: Publications, *, events_per_s: float, events: Iterator[Event]) -> None:
        self._url = url
        self._publications = publications
        self._interval_s = max(INTERVAL_S, 1 / events_per_s)
        self._count = max(1, round(events_per_s * self._interval_s))
        self._events = events
        self._since_copy: list[Event] = []
        self._copies = 0
        self._restored = False
        self._others: list[Event] = []

    def copied(self) -> None:
        """Note that a copy of the journal begins, which may lack events that are acknowledged from now on."""
        self._copies += 1

    def restored(self, lost: Iterable[bytes]) -> None:
        """Note that the journal was restored from that copy, and publish again what it lacks.

        These are the events acknowledged since the copy and, of `lost` (events that only the replaced journal had),
        the follow-ups, which are no longer in the outbox.
        """
        events = map(Event.from_json, lost)
        self._others += [e for e in events if identity(e.source, e.id) not in self._publications.tried]
        self._restored = True

    async def publish_until(self, ended: asyncio.Event) -> None:
        """Send batch after batch, and what a restored journal lacks, until `ended`."""
        # Errors are expected here: do not print them.
        async with Publisher(self._url, deadline_s=DEADLINE_S, on_trouble=lambda _: None) as publisher:
            while not ended.is_set() or self._restored:
                if self._restored:
                    await self._publish_again(publisher)
                if events := list(islice(self._events, self._count)):
                    await self._publish(publisher, events)
                await asyncio.sleep(self._interval_s)

    async def _publish(self, publisher: Publisher, events: Sequence[Event]) -> None:
        ids = {identity(event.source, event.id) for event in events}
        self._publications.tried |= ids
        try:
            await publisher.publish_many(events)
        except NotAcknowledged:
            return
        self._publications.acknowledged |= ids
        if self._copies:
            self._since_copy.extend(events)

    async def _publish_again(self, publisher: Publisher) -> None:
        again, self._since_copy = self._since_copy, []
        others, self._others = self._others, []
        self._restored = False
        await self._publish(publisher, again)
        await publisher.publish_many(others)
        self._copies -= 1
        if not self._copies:
            self._since_copy = []
