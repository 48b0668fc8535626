"""The next event of a key is admitted when the previous one has ended."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oncecast import App, Event
from oncecast.core.event import Arrival, Cursor
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.order import Order
from tests.support.arrivals import arrivals, frame, receive, track


def nobody(arrival: Arrival) -> None: ...


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
    def __init__(self) -> None:
        self.released: list[Arrival] = []
        self.gone: list[Arrival] = []
        self.order = Order(ordered_app(), release=self.released.append, let_go=self.gone.append)

    def arrive(self, keys: list[str | None], on: Track, first: int = 1) -> list[Arrival]:
        """Arrivals of these keys; returns those that need not wait."""
        new = arrivals(len(keys), type="account", on=on, first=first)
        for arrival, key in zip(new, keys, strict=True):
            arrival.raw = msgspec.Raw(Event.new("account", subject=key, id=arrival.id).to_json())
        return self.order.let_through(new, new)


def offsets(of: list[Arrival]) -> list[int]:
    return [arrival.offset for arrival in of]


def test_the_first_of_every_key_and_all_without_a_key_need_not_wait() -> None:
    at = Harness()
    ready = at.arrive(["a", "b", "a", None, None, "b"], track())
    assert offsets(ready) == [1, 2, 4, 5]
    assert at.order.waiting == 2


def test_the_next_event_of_a_key_is_released_when_the_previous_has_ended_and_names_it() -> None:
    at = Harness()
    first, *_ = at.arrive(["a", "a", "a"], track())
    at.order.ended(first)
    (second,) = at.released
    assert second.turn is not None
    assert (second.offset, second.turn.key, needed(second)) == (2, 'subject="a"', ["1"])
    at.order.ended(second)
    assert offsets(at.released) == [2, 3]


def test_an_event_whose_predecessor_has_ended_need_not_wait_but_names_it() -> None:
    at, on = Harness(), track()
    (first,) = at.arrive(["a"], on)
    at.order.ended(first)
    (second,) = at.arrive(["a"], on, first=2)
    assert second.turn is not None
    assert needed(second) == ["1"]


def test_an_event_needs_no_row_of_a_predecessor_behind_the_saved_cursor() -> None:
    at, on = Harness(), track()
    (first,) = at.arrive(["a"], on)
    at.order.ended(first)
    (second,) = at.arrive(["a"], on, first=2)
    on.save(Cursor("e1", 1))
    assert second.turn is not None
    assert needed(second) == []
    at.order.ended(second)
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
    released: list[Arrival] = []
    order = Order(app, release=released.append, let_go=released.append)
    assert order.let_through(new, new) == new[:2]
    assert [arrival.turn and arrival.turn.key for arrival in new] == ["data.n=7", "data.id=7", "data.id=7"]
    order.ended(new[0])
    assert released == []
    order.ended(new[1])
    assert released == [new[2]]


def test_a_second_arrival_is_a_predecessor_and_is_not_admitted() -> None:
    at, on = Harness(), track()
    new = arrivals(2, type="account", on=on)
    for arrival in new:
        arrival.raw = msgspec.Raw(Event.new("account", subject="a").to_json())
    behind, asking = new
    assert at.order.let_through(new, [asking]) == []
    at.order.ended(behind)
    assert at.released == [asking]


def test_arrivals_behind_an_abandoned_arrival_are_abandoned_and_never_released() -> None:
    at = Harness()
    first, second, third = arrived = arrivals(3, type="account")
    for arrival in arrived:
        arrival.raw = msgspec.Raw(Event.new("account", subject="a").to_json())
    assert at.order.let_through(arrived, [first, third]) == [first]  # the second waits for its own identity
    assert at.order.was_let_go(first) is None
    at.order.let_second_through(second)
    assert at.gone == [second]
    assert at.order.was_let_go(second) is third
    assert at.order.was_let_go(third) is None
    assert (at.released, at.order.waiting) == ([], 0)


def test_a_busy_key_keeps_only_turns_above_the_saved_cursor() -> None:
    app = App()

    @app.on("tick", ordered_by="source")
    async def handler(event: Event) -> None: ...

    order, on, chain = Order(app, release=nobody, let_go=nobody), track(), []
    for offset in range(1, 101):
        (newest,) = order.let_through(new := receive(on, frame(offset, f"{offset}")), new)
        order.ended(newest)
        on.end([newest])
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
        at.order.ended(arrival)
    on.end(ready)
    on.save(on.cursor_at(1_400))
    assert len(on.newest_of_key) == 100


@given(st.lists(st.sampled_from("abc"), max_size=30), st.data())
def test_each_key_runs_one_event_at_a_time_in_order(keys: list[str], data: st.DataObject) -> None:
    at = Harness()
    running = at.arrive(list(keys), track())
    done: list[Arrival] = []
    while running:
        assert len({arrival.turn.key for arrival in running if arrival.turn}) == len(running)
        arrival = running.pop(data.draw(st.integers(0, len(running) - 1)))
        done.append(arrival)
        at.order.ended(arrival)
        running += at.released
        at.released.clear()
    assert len(done) == len(keys)
    for key in "abc":
        mine = [arrival.offset for arrival in done if arrival.turn and arrival.turn.key == f'subject="{key}"']
        assert mine == sorted(mine)
    assert at.order.waiting == 0
