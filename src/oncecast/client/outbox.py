"""Events on their way to the producer: one side adds, one sender or a few take batches of whatever has gathered.

Nothing lingers: a lone event is taken at once, and while requests are under way the next batch gathers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from oncecast.core.event import Event, encode, new_id


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Events as JSON objects, and the number of each in what the caller gave: its place, or its line."""

    events: list[bytes]
    numbers: Sequence[int]

    @property
    def body(self) -> bytes:
        """The JSON array that is posted."""
        return b"[" + b",".join(self.events) + b"]"


class SendQueue:
    """Holds up to `events_max` events or `bytes_max` bytes, and what was added last beyond that."""

    __slots__ = ("_bytes", "_bytes_max", "_ended", "_events", "_events_max", "_filled", "_numbers", "_room")

    def __init__(self, *, events_max: int, bytes_max: int) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events: list[bytes] = []
        self._numbers: list[int] = []
        self._bytes = 0
        self._ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def add(self, events: Sequence[bytes], numbers: Sequence[int]) -> None:
        """Wait until there is room, then add all of `events`."""
        await self._room.wait()
        self._events += events
        self._numbers += numbers
        self._bytes += sum(map(len, events))
        self._note()

    async def take(self) -> SendBatch | None:
        """Wait for events, and take at most a full batch of them; None when they have ended."""
        while not self._events:
            if self._ended:
                return None
            await self._filled.wait()
        count = min(len(self._events), self._events_max)
        if self._bytes > self._bytes_max:
            count = that_fit(self._events[:count], self._bytes_max)
        batch = SendBatch(self._events[:count], self._numbers[:count])
        del self._events[:count], self._numbers[:count]
        self._bytes -= sum(map(len, batch.events))
        self._note()
        return batch

    def end(self) -> None:
        """No more will be added; what is there can still be taken."""
        self._ended = True
        self._filled.set()

    def drop(self) -> None:
        """No more will be added, and what is there will not be sent."""
        self._events.clear()
        self._numbers.clear()
        self._bytes = 0
        self.end()

    def _note(self) -> None:
        if len(self._events) >= self._events_max or self._bytes >= self._bytes_max:
            self._room.clear()
        else:
            self._room.set()
        if self._events or self._ended:
            self._filled.set()
        else:
            self._filled.clear()


def that_fit(events: Sequence[bytes], bytes_max: int) -> int:
    """How many of the first events make up at most `bytes_max` together; one, if it is larger by itself."""
    fit = sum(size <= bytes_max for size in accumulate(len(event) + 1 for event in events))
    return max(fit, min(1, len(events)))


def encode_event(event: Event | Mapping[str, Any]) -> bytes:
    """The JSON of an event, always with an id, so that sending these bytes again is sending the same event.

    Raises TypeError for anything that is no event, or holds what has no JSON form.
    """
    if isinstance(event, Event):
        return event.to_json()
    if not isinstance(event, Mapping):
        raise TypeError(
            f"an event is an oncecast.Event or a mapping, not {type(event).__name__}; publish_many takes several"
        )
    if event.get("id") is None:
        event = {**event, "id": new_id()}
    try:
        return encode(event)
    except TypeError as error:
        raise TypeError(f"the event {event['id']!r} has no JSON form: {error}") from None


def check_several(events: object) -> None:
    """Raise TypeError for what is no iterable of events, though some of it can be iterated over."""
    if isinstance(events, Event | Mapping | str | bytes):
        raise TypeError(f"publish_many takes an iterable of events, not {type(events).__name__}: publish takes one")
