"""A queue of events on their way to the producer: one side adds events, one or more senders take batches.

A single event is taken at once. While requests are in flight, the next batch accumulates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from oncecast.event import Event, encode, new_id


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Events as JSON objects, and the number of each in the caller's input: its position or line."""

    events: list[bytes]
    numbers: Sequence[int]

    @property
    def body(self) -> bytes:
        """Return the JSON array to post."""
        return b"[" + b",".join(self.events) + b"]"


class SendQueue:
    """Holds up to `events_max` events or `bytes_max` bytes; the last addition may exceed that."""

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
        """End the queue: its events can still be taken."""
        self._ended = True
        self._filled.set()

    def drop(self) -> None:
        """End the queue and discard its events."""
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
    """Return how many of the first events fit into `bytes_max`; at least one."""
    fit = sum(size <= bytes_max for size in accumulate(len(event) + 1 for event in events))
    return max(fit, min(1, len(events)))


def encode_event(event: Event | Mapping[str, Any]) -> bytes:
    """Return the JSON of an event, always with an id, so that these bytes can be sent again safely.

    Raises TypeError for a value that is not an event or cannot be encoded.
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
        raise TypeError(f"the event {event['id']!r} cannot be encoded as JSON: {error}") from None


def check_several(events: object) -> None:
    """Raise TypeError unless `events` is an iterable of events, and not, say, one event or text."""
    if isinstance(events, Event | Mapping | str | bytes):
        raise TypeError(f"publish_many takes an iterable of events, not {type(events).__name__}: publish takes one")
