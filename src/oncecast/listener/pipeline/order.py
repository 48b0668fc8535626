"""The order stage: an event with a key waits until the previous event of its key has ended.

Every listener of a group reads the same journal, so each knows the order, also of events that another one handles.
PostgreSQL decides when the attempt starts (`Turn`): no two listeners run a key at once, and the previous event must
have its row.

An event that was published twice is in the journal twice. Its second arrival is a duplicate, but it also waits for
the event before it, so that the event after it cannot overtake.
"""

from __future__ import annotations

from collections.abc import Sequence

from oncecast.app.application import App
from oncecast.core.event import Arrival, Turn


def admit(app: App, arrivals: Sequence[Arrival]) -> None:
    """Record the turn of each new event of a journal that has a key, and whether it waits for the previous one."""
    for arrival in arrivals:
        key_of = app.plan_of(arrival.type, arrival.source).key_of
        key = key_of(arrival) if key_of is not None else None
        if key is None:
            continue
        track = arrival.track
        before = track.newest_of_key.get(key)
        track.newest_of_key[key] = arrival
        track.hold(arrival)
        arrival.turn = Turn(key, arrival.source, arrival.id, arrival.epoch, arrival.offset, track)
        if before is not None:
            # rule: an ordered event names the event before it
            arrival.turn.before = before.turn
            if not before.gone:
                track.followers[before] = arrival
                arrival.waits = True


def next_in_order(ended: Arrival) -> Arrival | None:
    """Return the event that has waited for `ended`, if there is one; it waits no longer."""
    # rule: the next event of a key runs when the one before it has ended
    follower = ended.track.followers.pop(ended, None)
    if follower is not None:
        follower.waits = False
    return follower
