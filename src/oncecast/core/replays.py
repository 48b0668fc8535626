"""Make arrivals of the events that an operator replays: they come from PostgreSQL, not from a producer."""

from __future__ import annotations

import msgspec

from oncecast.core.dead_letters import Identity
from oncecast.core.event import Arrival, Cursor, with_data, with_id
from oncecast.core.positions import JournalPosition
from oncecast.core.ranges import Range
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
    event = raw if edited is None else with_data(raw, edited)
    return _to_replay(identity, type, event, attempts + 1, place, journal, at_us)


def conflict_to_replay(raw: bytes, new_id: str, *, place: Cursor, journal: str, at_us: int) -> Arrival:
    """Return the event of a conflict as the first attempt at a new event with the id `new_id`."""
    head = msgspec.json.decode(raw, type=Head)
    return _to_replay(Identity(head.source, new_id), head.type, with_id(raw, new_id), 1, place, journal, at_us)


def _to_replay(
    identity: Identity, type: str, raw: bytes, attempts: int, place: Cursor, journal: str, at_us: int
) -> Arrival:
    epoch, offset = place
    position = JournalPosition(journal, place)
    return Arrival(
        track=position,
        range=Range(position, epoch, offset, offset, offset, at_us, raws=[], unended=1, cost_bytes=0),
        offset=offset,
        at_us=at_us,
        id=identity.id,
        source=identity.source,
        type=type,
        raw=msgspec.Raw(raw),
        cost_bytes=0,
        attempts=attempts,
        epoch=epoch,
        journal=journal,
    )
