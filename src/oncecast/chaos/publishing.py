"""Publishers that never pause: every id that was sent is known, and every one that was acknowledged."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from oncecast.client.errors import NotAcknowledged
from oncecast.client.publisher import Publisher
from oncecast.core.event import Event, new_id

INTERVAL_S = 0.05
DEADLINE_S = 600.0
WEIGHTS = {"tick": 800, "counted": 150, "flaky": 20, "slow": 10, "failing": 10, "swallowing": 10}
KILLING_EVERY_S = 15.0


@dataclass(slots=True)
class Publications:
    """What the publishers know."""

    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)


async def publish_until(
    ended: asyncio.Event,
    url: str,
    publications: Publications,
    *,
    events_per_s: float,
    kills: bool,
    draw: random.Random,
) -> None:
    """Send to the producer at `url`, again and again under the same ids until it says that it has them."""
    types, weights = list(WEIGHTS), list(WEIGHTS.values())
    count = max(1, round(events_per_s * INTERVAL_S))
    elapsed_s = 0.0
    async with Publisher(url, deadline_s=DEADLINE_S) as publisher:
        while not ended.is_set():
            batch = draw.choices(types, weights, k=count)
            elapsed_s += INTERVAL_S
            if kills and elapsed_s >= KILLING_EVERY_S:
                batch[0], elapsed_s = "killing", 0.0
            events = [Event.new(type_, {"n": n}, id=f"{type_}:{new_id()}") for n, type_ in enumerate(batch)]
            ids = {event.id for event in events}
            publications.tried |= ids
            try:
                await publisher.publish_many(events)
            except NotAcknowledged:
                continue
            publications.acknowledged |= ids
            await asyncio.sleep(INTERVAL_S)
