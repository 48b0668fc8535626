"""Make arrivals of the events that an operator replays: they come from PostgreSQL, not from a producer."""

from __future__ import annotations

import msgspec

from oncecast.core.dead_letters import Identity
from oncecast.core.event import Arrival, Cursor, JournalPosition, with_data, with_id
from oncecast.core.wire import Head


def dead_letter_to_replay(
    identity: Identity,
    raw: bytes,
    edited: bytes | None,
    *,
    type: str,
    attempts: int,
    place: Cursor,
    journal: str,
    at_us: int,
) -> Arrival:
    """Return a dead letter as the next attempt at its event, with the data `edited` unless that is None."""
    return Arrival(
        track=JournalPosition(),
        offset=place.offset,
        at_us=at_us,
        id=identity.id,
        source=identity.source,
        type=type,
        raw=msgspec.Raw(raw if edited is None else with_data(raw, edited)),
        cost_bytes=0,
        attempts=attempts + 1,
        epoch=place.epoch,
        journal=journal,
    )


def conflict_to_replay(raw: bytes, new_id: str, *, place: Cursor, journal: str, at_us: int) -> Arrival:
    """Return the event of a conflict as the first attempt at a new event with the id `new_id`."""
    head = msgspec.json.decode(raw, type=Head)
    return Arrival(
        track=JournalPosition(),
        offset=place.offset,
        at_us=at_us,
        id=new_id,
        source=head.source,
        type=head.type,
        raw=msgspec.Raw(with_id(raw, new_id)),
        cost_bytes=0,
        attempts=1,
        epoch=place.epoch,
        journal=journal,
    )
