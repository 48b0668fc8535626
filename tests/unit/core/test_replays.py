"""Events that an operator replays are read from PostgreSQL."""

from __future__ import annotations

import msgspec

from oncecast.core.dead_letters import Identity
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import conflict_to_replay, dead_letter_to_replay
from oncecast.event import Event

EVENT = Event.new("order.created", {"n": 1}, id="o-1", source="/shop")
PLACE = Cursor("e1", 7)


def dead_letter(edited: bytes | None = None) -> Arrival:
    return dead_letter_to_replay(
        Identity("/shop", "o-1"),
        EVENT.to_json(),
        edited,
        type="order.created",
        attempts=3,
        place=PLACE,
        journal="j",
        at_us=5,
    )


def test_a_dead_letter_is_replayed_as_it_was_received_in_its_next_attempt() -> None:
    arrival = dead_letter()
    assert bytes(arrival.raw) == EVENT.to_json()
    assert (arrival.identity, arrival.cursor, arrival.attempts) == ("/shop\0o-1", "e1:7", 4)
    assert (arrival.journal, arrival.at_us, arrival.type) == ("j", 5, "order.created")


def test_an_edited_dead_letter_is_replayed_with_its_new_data_even_if_that_is_null() -> None:
    assert Event.from_json(dead_letter(b'{"n":2}').raw).data == {"n": 2}
    assert msgspec.json.decode(dead_letter(b"null").raw)["data"] is None


def test_a_conflict_is_replayed_under_a_new_id_as_a_first_attempt() -> None:
    arrival = conflict_to_replay(EVENT.to_json(), "o-2", place=PLACE, journal="j", at_us=5)
    assert Event.from_json(arrival.raw) == Event.new("order.created", {"n": 1}, id="o-2", source="/shop")
    assert (arrival.identity, arrival.cursor, arrival.attempts) == ("/shop\0o-2", "e1:7", 1)
