"""Arrivals, ranges and tracks for tests of single parts of the pipeline."""

from __future__ import annotations

from typing import Any

import msgspec

from oncecast.core.event import Arrival
from oncecast.core.ranges import RANGE_MAX_EVENTS, Range
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


def frame(first: int, *ids: str, size_bytes: int = 50) -> bytes:
    bodies = [Event.new("tick", "ü" * size_bytes, id=id_).to_json() for id_ in ids]
    return events_frame(first, 1_700_000_000_000_000, b"[" + b",".join(bodies) + b"]")


def receive(on: Track, text: bytes) -> list[Arrival]:
    return [arrival for each in receive_ranges(on, text) for arrival in each.arrivals]


def receive_ranges(on: Track, text: bytes, size: int = RANGE_MAX_EVENTS, *, decode: bool = True) -> list[Range]:
    decoded = decode_server_frame(text)
    assert isinstance(decoded, Events)
    return on.receive(decoded, text, size, decode=decode)


def arrivals(count: int, **fields: Any) -> list[Arrival]:
    """The `count` arrivals of one range, with the ids 1, 2, …"""
    return [arrival for each in ranges(min(count, 1), size=max(count, 1), **fields) for arrival in each.arrivals]


def ranges(
    count: int, *, size: int = 1, type: str = "tick", on: Track | None = None, first: int = 1, **fields: Any
) -> list[Range]:
    """`count` ranges of `size` arrivals each, with the ids 1, 2, …; `fields` are those of the ranges."""
    on = on or track(first - 1)
    on.watermark.arrive(first, first + count * size - 1)
    made = []
    for n in range(first, first + count * size, size):
        each = Range(on, "e1", n, n + size - 1, first_new=n, at_us=0, raws=[], unended=size, cost_bytes=0, **fields)
        each.arrivals = [_arrival(each, offset, type) for offset in range(n, n + size)]
        made.append(each)
    on.ranges.update(made)
    return made


def _arrival(of: Range, offset: int, type: str) -> Arrival:
    return Arrival(
        track=of.track,
        offset=offset,
        at_us=0,
        id=str(offset),
        source="/s",
        type=type,
        raw=msgspec.Raw(Event.new(type, {"n": offset}, id=str(offset), source="/s").to_json()),
        cost_bytes=3,
        epoch=of.epoch,
        journal="journal",
        range=of,
    )
