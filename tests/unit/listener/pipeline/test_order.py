"""The next event of a key is admitted when the previous one has ended."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oncecast import App, Event
from oncecast.core.event import Arrival, Cursor
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.order import admit, next_in_order
from tests.support.arrivals import arrivals, frame, receive, track


def ordered_app() -> App:
    app = App()

    @app.on("account", ordered_by="subject")
    async def handler(event: Event) -> None: ...

    return app


def needed(arrival: Arrival) -> list[str]:
    """The ids of those whose rows it waits for."""
    assert arrival.turn is not None
    return [turn.id for turn in arrival.turn.rows_needed()]


class Harness:
    def __init__(self, app: App | None = None) -> None:
        self.app = app or ordered_app()
        self.released: list[Arrival] = []

    def arrive(self, keys: list[str | None], on: Track, first: int = 1) -> list[Arrival]:
        """Arrivals of these keys; returns those that need not wait."""
        new = arrivals(len(keys), type="account", on=on, first=first)
        for arrival, key in zip(new, keys, strict=True):
            arrival.raw = msgspec.Raw(Event.new("account", subject=key, id=arrival.id).to_json())
        return self.admit(new)

    def admit(self, new: list[Arrival]) -> list[Arrival]:
        admit(self.app, new)
        return [arrival for arrival in new if not arrival.waits]

    def ended(self, arrival: Arrival) -> None:
        arrival.gone = True
        if (follower := next_in_order(arrival)) is not None:
            assert not follower.waits
            self.released.append(follower)


def offsets(of: list[Arrival]) -> list[int]:
    return [arrival.offset for arrival in of]


def test_the_first_of_every_key_and_all_without_a_key_need_not_wait() -> None:
    at = Harness()
    ready = at.arrive(["a", "b", "a", None, None, "b"], on := track())
    assert offsets(ready) == [1, 2, 4, 5]
    assert len(on.followers) == 2


def test_the_next_event_of_a_key_is_released_when_the_previous_has_ended_and_names_it() -> None:
    at = Harness()
    first, *_ = at.arrive(["a", "a", "a"], track())
    at.ended(first)
    (second,) = at.released
    assert second.turn is not None
    assert (second.offset, second.turn.key, needed(second)) == (2, 'subject="a"', ["1"])
    at.ended(second)
    assert offsets(at.released) == [2, 3]


def test_an_event_whose_predecessor_has_ended_need_not_wait_but_names_it() -> None:
    at, on = Harness(), track()
    (first,) = at.arrive(["a"], on)
    at.ended(first)
    (second,) = at.arrive(["a"], on, first=2)
    assert second.turn is not None
    assert needed(second) == ["1"]


def test_an_event_needs_no_row_of_a_predecessor_behind_the_saved_cursor() -> None:
    at, on = Harness(), track()
    (first,) = at.arrive(["a"], on)
    at.ended(first)
    (second,) = at.arrive(["a"], on, first=2)
    on.save(Cursor("e1", 1))
    assert second.turn is not None
    assert needed(second) == []
    at.ended(second)
    (third,) = at.arrive(["a"], on, first=3)
    assert third.turn is not None
    assert needed(third) == ["2"]


def test_another_track_does_not_wait_for_this_one() -> None:
    at = Harness()
    at.arrive(["a"], track())
    (other,) = at.arrive(["a"], track())
    assert other.turn is not None
    assert (other.turn.key, needed(other)) == ('subject="a"', [])


def test_the_same_value_at_another_place_is_another_key_and_at_the_same_place_one_whatever_the_handler() -> None:
    app = App()
    for types, place in (("customer", "data.n"), ("invoice.sent", "data.id"), ("invoice.paid", "data.id")):

        @app.on(types, ordered_by=place)
        async def handler(event: Event) -> None: ...

    events = [
        Event.new("customer", {"n": 7}),
        Event.new("invoice.sent", {"id": 7}),
        Event.new("invoice.paid", {"id": 7}),
    ]
    new = arrivals(3, type="customer")
    for arrival, event in zip(new, events, strict=True):
        arrival.type, arrival.raw = event.type, msgspec.Raw(event.to_json())
    at = Harness(app)
    assert at.admit(new) == new[:2]
    assert [arrival.turn and arrival.turn.key for arrival in new] == ["data.n=7", "data.id=7", "data.id=7"]
    at.ended(new[0])
    assert at.released == []
    at.ended(new[1])
    assert at.released == [new[2]]


def test_a_busy_key_keeps_only_turns_above_the_saved_cursor() -> None:
    app = App()

    @app.on("tick", ordered_by="source")
    async def handler(event: Event) -> None: ...

    at, on, chain = Harness(app), track(), []
    for offset in range(1, 101):
        (newest,) = at.admit(receive(on, frame(offset, f"{offset}")))
        at.ended(newest)
        on.end([newest])
        on.record(newest.range)
        on.save(Cursor("e1", offset - 3))
    turn = newest.turn
    while turn is not None:
        chain.append(turn.offset)
        turn = turn.before
    assert chain == [100, 99, 98, 97]


def test_with_many_keys_predecessors_behind_the_saved_cursor_are_forgotten() -> None:
    at, on = Harness(), track()
    ready = at.arrive([f"key {n}" for n in range(1_500)], on)
    for arrival in ready:
        at.ended(arrival)
    on.end(ready)
    on.save(on.cursor_at(1_400))
    assert len(on.newest_of_key) == 100


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.data())
def test_each_key_runs_one_event_at_a_time_in_order(keys: list[str], data: st.DataObject) -> None:
    at = Harness()
    running = at.arrive(list(keys), on := track())
    done: list[Arrival] = []
    while running:
        assert len({arrival.turn.key for arrival in running if arrival.turn}) == len(running)
        arrival = running.pop(data.draw(st.integers(0, len(running) - 1)))
        done.append(arrival)
        at.ended(arrival)
        running += at.released
        at.released.clear()
    assert len(done) == len(keys)
    for key in "abc":
        mine = [arrival.offset for arrival in done if arrival.turn and arrival.turn.key == f'subject="{key}"']
        assert mine == sorted(mine)
    assert not on.followers
