"""Publishers that never pause: every id that was sent is known, and every one that was acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from oncecast.client.errors import NotAcknowledged
from oncecast.client.publisher import Publisher
from oncecast.core.event import Event, new_id

INTERVAL_S = 0.05
DEADLINE_S = 600.0
WEIGHTS = {"tick": 840, "counted": 130, "flaky": 10, "slow": 4, "failing": 8, "swallowing": 8}
"""What has a handler must come to less than its listeners can do, with one or two of them down."""
KILLING_EVERY_S = 40.0
"""Each takes four processes with it, and each of those some five seconds to be missed."""


@dataclass(slots=True)
class Publications:
    """What the publishers know."""

    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)


class Desk:
    """Who publishes to one producer, at `url`: each batch again and again under the same ids until it is taken."""

    def __init__(
        self, url: str, publications: Publications, *, events_per_s: float, crashes: bool, draw: random.Random
    ) -> None:
        self._url = url
        self._publications = publications
        self._count = max(1, round(events_per_s * INTERVAL_S))
        self._crashes = crashes
        self._draw = draw
        self._since_copy: list[Event] = []
        self._copies = 0
        self._restored = False

    def copied(self) -> None:
        """A copy of the journal is about to be made: what is acknowledged from now on may not be in it."""
        self._copies += 1

    def restored(self) -> None:
        """The journal was put back to that copy: whoever runs it says so, and what it lacks is published again."""
        self._restored = True

    async def publish_until(self, ended: asyncio.Event) -> None:
        """Send batch after batch, and what a restored journal lacks, until `ended`."""
        elapsed_s = 0.0
        async with Publisher(self._url, deadline_s=DEADLINE_S) as publisher:
            while not ended.is_set() or self._restored:
                if self._restored:
                    await self._publish_again(publisher)
                crashes = self._crashes and elapsed_s >= KILLING_EVERY_S
                elapsed_s = 0.0 if crashes else elapsed_s + INTERVAL_S
                await self._publish(publisher, self._events(crashes=crashes))
                await asyncio.sleep(INTERVAL_S)

    def _events(self, *, crashes: bool) -> list[Event]:
        types = self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=self._count)
        if crashes:
            types[0] = "killing"
        return [Event.new(type_, {"n": n}, id=f"{type_}:{new_id()}") for n, type_ in enumerate(types)]

    async def _publish(self, publisher: Publisher, events: Sequence[Event]) -> None:
        ids = {event.id for event in events}
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
        self._restored = False
        await self._publish(publisher, again)
        self._copies -= 1
        if not self._copies:
            self._since_copy = []
