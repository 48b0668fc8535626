"""Arrivals of one journal, each at a place of its own, with content that can be stored."""

from __future__ import annotations

from typing import Any

from oncecast.core.dead_letters import Identity
from oncecast.core.event import Arrival, Cursor
from oncecast.core.ports import Cursors
from oncecast.core.ranges import EndedRange
from oncecast.core.replays import dead_letter_to_replay
from oncecast.core.wire import Epoch
from oncecast.event import Event

JOURNAL = "j0"
EPOCHS = [Epoch("e1", 1)]


def arrival(offset: int, id: str | None = None, data: Any = None, *, epoch: str = "e1", **attributes: Any) -> Arrival:
    event = Event.new("tick", {"n": offset} if data is None else data, id=id or f"id-{offset}", **attributes)
    return dead_letter_to_replay(
        Identity(event.source, event.id),
        event.to_json(),
        None,
        type=event.type,
        attempts=0,
        place=Cursor(epoch, offset),
        journal=JOURNAL,
        at_us=1_700_000_000_000_000,
    )


async def record(store: Cursors, first: int, last: int, *, epoch: str = "e1") -> None:
    """Record that the events of these offsets have rows."""
    assert await store.record_ranges([EndedRange(JOURNAL, epoch, first, last)], store.incarnation)
