"""Publishers: they repeat what they were not told is accepted, under the same ids."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from oncecast.core.errors import Unavailable
from oncecast.core.event import DEFAULT_SOURCE, Event
from oncecast.producer.app import Producer
from tests.simulation.loop import begin, owned_by

if TYPE_CHECKING:
    from tests.simulation.world import World

POST_DEADLINE_S = 10.0
UNHEARD = 0.1
"""So many of the answers do not arrive."""


class Publishers:
    """What was tried and acknowledged, and what a producer has accepted since its journal was last copied."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since_copy: dict[str, list[bytes]] = {}
        self.restores: Counter[str] = Counter()
        """Of whose journals, how often a copy took their place."""
        self.tried: set[str] = set()
        self.acknowledged: set[str] = set()
        self.contents: dict[str, set[bytes]] = {}
        """What was acknowledged under each id: other content is a conflict."""
        self.refusals: Counter[str] = Counter()

    async def publish(self, producer: str, events: Sequence[bytes]) -> None:
        """Until the producer says that it has them."""
        ids = {msgspec.json.decode(event)["id"] for event in events}
        self.tried |= ids
        body = b"[" + b",".join(events) + b"]"
        while not await self._post(producer, body):
            await asyncio.sleep(self._world.draw.uniform(0.1, 1.0))
        self.acknowledged |= ids - self._world.watch.nobodys
        for event in events:
            self.contents.setdefault(msgspec.json.decode(event)["id"], set()).add(event)
        self._since_copy.get(producer, []).extend(events)

    async def relay(self, events: Sequence[bytes]) -> None:
        """See Publish of `core.ports`: to any producer, once; it is the outbox that tries again."""
        producer = self._world.producer(self._world.draw.randrange(len(self._world.producers))).name
        body = b"[" + b",".join(events) + b"]"
        self.tried |= {msgspec.json.decode(event)["id"] for event in events}
        if not await self._post(producer, body):
            raise Unavailable(f"{producer} has not acknowledged")
        for event in events:
            self._since_copy.get(producer, []).append(event)

    async def publish_again(self, producer: str, n: int) -> bool:
        """One of the ids that are acknowledged, with `n` as its content; False if there is none."""
        if not self.acknowledged:
            return False
        await self.publish(producer, [event_of(self._world.draw.choice(sorted(self.acknowledged)), n)])
        return True

    def begin_copy(self, producer: str) -> bool:
        """Remember what is accepted from now on; False if that is being done already."""
        if producer in self._since_copy:
            return False
        self._since_copy[producer] = []
        return True

    async def after_restore(self, producer: str) -> bool:
        """They are told that the copy stands in for the journal; whether it lacked anything."""
        self.restores[producer] += 1
        if since := self._since_copy.pop(producer):
            await self.publish(producer, since)
        return bool(since)

    async def _post(self, producer: str, body: bytes) -> bool:
        process = self._world.process(producer)
        restores = self.restores[producer]
        if not process.running:
            return False
        with owned_by(process.owner):
            posting = begin(_status_of(process.service, body))
        with suppress(TimeoutError):
            async with asyncio.timeout(POST_DEADLINE_S):
                status = await asyncio.shield(posting)
                self.refusals[producer] += status >= 500
                await asyncio.sleep(self._world.servers.latency_s())
                is_heard = self._world.draw.random() >= UNHEARD
                return status == 202 and is_heard and restores == self.restores[producer]
        return False


def event_of(id: str, n: int) -> bytes:
    """An event whose type is the beginning of its id; `n` is its content."""
    type_ = id.partition(":")[0]
    return Event.new(type_, {"n": n}, id=id, source=DEFAULT_SOURCE, time="2026-01-01T00:00:00Z").to_json()


async def _status_of(producer: Producer, body: bytes) -> int:
    """What it answers to `POST /events`."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/events",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }
    await producer.app(scope, receive, send)
    return status
