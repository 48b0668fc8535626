"""Publishers that retry unacknowledged events under the same ids."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from oncecast.core.errors import Unavailable
from oncecast.core.event import DEFAULT_SOURCE
from oncecast.event import Event
from oncecast.producer.app import Producer
from tests.simulation.loop import begin, owned_by, owner_name, sleep

if TYPE_CHECKING:
    from tests.simulation.world import World

POST_DEADLINE_S = 10.0
UNHEARD = 0.1
"""The share of lost answers."""


class Publishers:
    """Events published and acknowledged, and events accepted since the last copy of a producer's journal."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since_copy: dict[str, list[bytes]] = {}
        self.restores: Counter[str] = Counter()
        """By producer: how often a copy replaced its journal."""
        self.tried: set[str] = set()
        self.acknowledged: set[str] = set()
        self.contents: dict[str, set[bytes]] = {}
        """By id: the acknowledged contents; a second content is a conflict."""
        self._originals: dict[str, bytes] = {}
        self.refusals: Counter[str] = Counter()

    async def publish(self, producer: str, events: Sequence[bytes]) -> None:
        """Publish until the producer acknowledges."""
        ids = self._try(events)
        body = b"[" + b",".join(events) + b"]"
        while not await self._post(producer, body):
            await sleep(self._world.draw.uniform(0.1, 1.0))
        self._acknowledged(producer, ids, events)

    async def relay(self, events: Sequence[bytes]) -> None:
        """Publish once to any producer; the outbox retries."""
        world = self._world
        listener, producer = owner_name(), world.producer(world.draw.randrange(len(world.producers))).name
        ids = self._try(events)
        world.handled.relayed(ids)
        await sleep(world.servers.latency_s())
        is_cut = world.servers.is_cut(listener, producer) or world.servers.is_cut("listeners", producer)
        if is_cut or not await self._post(producer, b"[" + b",".join(events) + b"]"):
            raise Unavailable(f"{producer} has not acknowledged")
        self._acknowledged(producer, ids, events)

    def _try(self, events: Sequence[bytes]) -> list[str]:
        ids = [msgspec.json.decode(event)["id"] for event in events]
        self.tried.update(ids)
        return ids

    def _acknowledged(self, producer: str, ids: Sequence[str], events: Sequence[bytes]) -> None:
        """Record acknowledged events: they are published again if a copy replaces the producer's journal.

        This includes follow-ups: the operator has them from the file that the copy replaces.
        """
        self.acknowledged |= set(ids) - self._world.watch.nobodys
        for id_, event in zip(ids, events, strict=True):
            self.contents.setdefault(id_, set()).add(event)
            self._originals.setdefault(id_, event)
        self._since_copy.get(producer, []).extend(events)

    async def publish_again(self, producer: str, n: int) -> bool:
        """Publish an acknowledged id again, with other content unless `n` is 0; return False if there is none."""
        if not self.acknowledged:
            return False
        event = self._originals[self._world.draw.choice(sorted(self.acknowledged))]
        if n:
            changed = msgspec.json.encode({"n": n})
            event = dataclasses.replace(Event.from_json(event), raw_data=changed).to_json()
        await self.publish(producer, [event])
        return True

    def begin_copy(self, producer: str) -> bool:
        """Record accepted events from now on; return False if that is done already."""
        if producer in self._since_copy:
            return False
        self._since_copy[producer] = []
        return True

    async def after_restore(self, producer: str) -> bool:
        """Publish again what the restored copy lacks; return whether it lacked anything."""
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
                await sleep(self._world.servers.latency_s())
                is_heard = self._world.draw.random() >= UNHEARD
                return status == 202 and is_heard and restores == self.restores[producer]
        return False


def event_of(id: str) -> bytes:
    """Return an event whose type, and key if any, are in its id."""
    type_, _, rest = id.partition(":")
    key = rest.rpartition(":")[0] or None
    return Event.new(
        type_, {"n": 0}, id=id, source=DEFAULT_SOURCE, subject=key, time="2026-01-01T00:00:00Z"
    ).to_json()


async def _status_of(producer: Producer, body: bytes) -> int:
    """Return the status of the answer to `POST /events`."""
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
