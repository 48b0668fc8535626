"""Arrivals and tracks for tests of single parts of the pipeline."""

from __future__ import annotations

from typing import Any

import msgspec

from oncecast.core.event import Arrival
from oncecast.core.wire import Epoch, Events, decode_server_frame, events_frame
from oncecast.event import Event
from oncecast.listener.feed.track import Track


class Credit:
    """Sums up the credit that a track returns."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, count: int) -> None:
        self.bytes += count


def track(after: int = 0, credit: Credit | None = None) -> Track:
    return Track("journal", [Epoch("e1", 1)], after, credit or Credit())


def track_of(arrival: Arrival) -> Track:
    assert isinstance(arrival.track, Track)
    return arrival.track


def frame(first: int, *ids: str, size_bytes: int = 50) -> bytes:
    bodies = [Event.new("tick", "ü" * size_bytes, id=id_).to_json() for id_ in ids]
    return events_frame(first, 1_700_000_000_000_000, b"[" + b",".join(bodies) + b"]")


def receive(on: Track, text: bytes) -> list[Arrival]:
    decoded = decode_server_frame(text)
    assert isinstance(decoded, Events)
    return on.receive(decoded, text)


def arrivals(
    count: int, *, type: str = "tick", on: Track | None = None, first: int = 1, **fields: Any
) -> list[Arrival]:
    """`count` arrivals with the ids 1, 2, …"""
    on = on or track(first - 1)
    on.watermark.arrive(first, first + count - 1)
    return [
        Arrival(
            track=on,
            offset=n,
            at_us=0,
            id=str(n),
            source="/s",
            type=type,
            raw=msgspec.Raw(b"{}"),
            cost_bytes=3,
            epoch="e1",
            journal="journal",
            **fields,
        )
        for n in range(first, first + count)
    ]
