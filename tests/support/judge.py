"""Publishes without pause while something breaks, and judges afterwards: lost, doubled, unexpected, wrongly dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from oncecast import Event, Publisher
from oncecast.client.errors import NotAcknowledged
from oncecast.embedded import Stack
from tests.support.stacks import drained, rows, until

BATCH_EVENTS = 40
BATCH_INTERVAL_S = 0.04
COUNTED_EVERY = 4


@dataclass(slots=True)
class Publications:
    """Every id that was tried, and those that were acknowledged."""

    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)


@asynccontextmanager
async def publishing(stack: Stack, *, deadline_s: float = 60.0) -> AsyncIterator[Publications]:
    """Publish some 1,000 events/s, every fourth with an effect to count, until the block ends."""
    publications, ended = Publications(), asyncio.Event()

    async def publish() -> None:
        async with Publisher(stack.publish_url, deadline_s=deadline_s) as publisher:
            while not ended.is_set():
                types = ["counted" if n % COUNTED_EVERY == 0 else "tick" for n in range(BATCH_EVENTS)]
                events = [Event.new(type_, {"n": n}) for n, type_ in enumerate(types)]
                ids = {event.id for event in events}
                publications.tried |= ids
                publications.counted |= {event.id for event in events if event.type == "counted"}
                try:
                    await publisher.publish_many(events)
                except NotAcknowledged:
                    continue
                publications.acknowledged |= ids
                await asyncio.sleep(BATCH_INTERVAL_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        yield publications
        ended.set()


async def acknowledged(publications: Publications, count: int) -> None:
    """Wait until `count` more events are acknowledged."""
    wanted = len(publications.acknowledged) + count

    async def enough() -> bool:
        return len(publications.acknowledged) >= wanted

    await until(enough)


async def judge(stack: Stack, publications: Publications) -> None:
    """Wait until all has ended; fail unless everything acknowledged took effect exactly once."""
    await drained(stack)
    status = dict(await rows(stack, "select id, status from oncecast.events"))
    counted = publications.counted & set(status)
    effects = dict(await rows(stack, "select id, count from public.effects"))
    verdict = {
        "lost": len(publications.acknowledged - set(status)),
        "unexpected": len(set(status) - publications.tried),
        "wrongly dead": sum(state == "dead" for state in status.values()),
        "doubled": sum(count != 1 for count in effects.values()),
        "effects missing": len(counted - set(effects)),
        "effects without a row": len(set(effects) - counted),
        "total off by": (await rows(stack, "select count from public.total"))[0][0] - len(counted),
    }
    assert publications.acknowledged
    assert not any(verdict.values()), verdict
