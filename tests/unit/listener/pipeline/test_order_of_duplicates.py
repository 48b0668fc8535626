"""The order holds for repeated publications: two listeners, two journals, identities at several places."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from oncecast import App, Event
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.wire import Epoch
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.order import Order
from oncecast.listener.pipeline.settle import Settlement
from oncecast.listener.recent import Recent

KEYS = 2
Place = tuple[str, int]


class Postgres:
    """Who has a row, and where it came from, in the order of the inserts; and the marks of what has ended."""

    def __init__(self) -> None:
        self.rows: dict[str, Place] = {}
        self.marks: set[Place] = set()


class Member:
    """A listener's stations of order and settling, and what may be attempted."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.ready: list[Arrival] = []
        app = App()

        @app.on("account", ordered_by="subject")
        async def handler(event: Event) -> None: ...

        self.order = Order(app, release=self._release, let_go=lambda arrival: self.settlement.let_go(arrival))
        self.settlement = Settlement(
            None,  # type: ignore[arg-type]
            Recent("a", SYSTEM_CLOCK),
            SYSTEM_CLOCK,
            release=self.order.let_second_through,
            ended=self.order.ended,
            was_let_go=self.order.was_let_go,
            record=lambda _telemetry: None,
        )
        self.tracks = {name: Track(name, [Epoch("e", 1)], 0, lambda _count: None) for name in "ab"}

    def _release(self, arrival: Arrival) -> None:
        if arrival.compared is None:
            self.ready.append(arrival)
        else:
            self.settlement.end_compared(arrival)

    def compare(self, count: int) -> bool:
        """What has ended is compared with its rows, up to `count` arrivals at a time; whether there was anything."""
        had_any = self.settlement.has_repeated.is_set()
        while batch := self.settlement.take_repeated(count, 1_000_000):
            outcomes = [Outcome.DUPLICATE if arrival.id in self.postgres.rows else None for arrival in batch]
            self.settlement.end_repeated(batch, outcomes)
        return had_any

    def receive(self, journal: str, id_: int) -> None:
        """The next event of a journal."""
        on = self.tracks[journal]
        offset = on.watermark.received + 1
        on.watermark.arrive(offset, offset)
        raw = msgspec.Raw(Event.new("account", id=str(id_), subject=str(id_ % KEYS)).to_json())
        new = [Arrival(on, offset, 0, str(id_), "/s", "account", raw, 3, epoch=journal, journal=journal)]
        self.ready += self.order.let_through(new, self.settlement.enter(new))

    def attempt(self, arrival: Arrival) -> bool:
        """As a mark or PostgreSQL would have it; False if it is out of turn, and its track is not abandoned."""
        place = (arrival.journal, arrival.offset)
        if place in self.postgres.marks:
            self.ready.remove(arrival)
            self.settlement.ended_elsewhere([arrival])
            return True
        if arrival.turn and not arrival.turn.has_come({("/s", id_): at for id_, at in self.postgres.rows.items()}):
            return self.out_of_turn(arrival)
        self.ready.remove(arrival)
        new = self.postgres.rows.setdefault(arrival.id, place) == place
        self.postgres.marks.add(place)
        self.settlement.settle([arrival], [Outcome.STORED if new else Outcome.DUPLICATE])
        return True

    def out_of_turn(self, arrival: Arrival) -> bool:
        """Its time has not come, or another listener has its key just now."""
        if arrival.track.is_superseded:
            self.ready.remove(arrival)
            self.settlement.let_go(arrival)
        return arrival.track.is_superseded

    def begin_again(self, journal: str) -> None:
        """Its track is abandoned: everything comes once more."""
        self.tracks[journal].abandon()
        self.tracks[journal] = Track(journal, [Epoch("e", 1)], 0, lambda _count: None)


def is_ordered(postgres: Postgres) -> bool:
    """Whether the rows of each key that came from one journal were inserted in its order."""
    for journal in "ab":
        for key in range(KEYS):
            mine = [at for id_, (name, at) in postgres.rows.items() if name == journal and int(id_) % KEYS == key]
            if mine != sorted(mine):
                return False
    return True


def test_events_behind_an_abandoned_event_are_abandoned_without_an_attempt() -> None:
    member = Member(Postgres())
    for id_ in (0, 2, 4):  # of one key
        member.receive("a", id_)
    (first,) = member.ready
    member.begin_again("a")
    member.out_of_turn(first)
    assert (member.ready, member.settlement.in_flight, member.order.waiting) == ([], 0, 0)


ids = st.lists(st.integers(0, 7), min_size=4, max_size=16)


@settings(max_examples=300)
@given(ids, ids, st.integers(0, 2**32))
def test_events_of_one_journal_keep_their_order_despite_duplicates(
    a: Sequence[int], b: Sequence[int], seed: int
) -> None:
    draw = Random(seed)
    postgres = Postgres()
    members = [Member(postgres), Member(postgres)]
    coming = [(member, name, list(events)) for member in members for name, events in (("a", a), ("b", b))]
    while True:
        steps = [(member, name, left) for member, name, left in coming if left]
        attempts = [(member, arrival) for member in members for arrival in member.ready]
        if steps and (not attempts or draw.random() < 0.5):
            member, name, left = draw.choice(steps)
            member.receive(name, left.pop(0))
            continue
        if draw.random() < 0.3 and draw.choice(members).compare(draw.randint(1, 3)):
            continue
        draw.shuffle(attempts)
        if any(member.attempt(arrival) for member, arrival in attempts):
            continue
        if not any(member.compare(2) for member in members):
            break
    assert is_ordered(postgres)
    assert postgres.rows.keys() == {str(id_) for id_ in (*a, *b)}
    assert all(not (member.ready or member.settlement.in_flight or member.order.waiting) for member in members)


@settings(max_examples=300)
@given(ids, st.integers(0, 2**32))
def test_no_event_overtakes_when_a_journal_is_read_again(events: Sequence[int], seed: int) -> None:
    draw = Random(seed)
    postgres = Postgres()
    members = [Member(postgres), Member(postgres)]
    coming = {member: list(events) for member in members}
    times_again = 3
    while any(coming.values()) or any(m.ready or m.settlement.has_repeated.is_set() for m in members):
        member = draw.choice(members)
        if draw.random() < 0.3:
            member.compare(draw.randint(1, 3))
        if times_again and draw.random() < 0.1:
            times_again -= 1
            member.begin_again("a")
            coming[member] = list(events)
        elif coming[member] and draw.random() < 0.5:
            member.receive("a", coming[member].pop(0))
        elif member.ready:
            arrival = draw.choice(member.ready)
            before = {str(id_) for id_ in events[: arrival.offset - 1] if id_ % KEYS == int(arrival.id) % KEYS}
            if draw.random() < 0.3:
                member.out_of_turn(arrival)
            elif arrival.id not in postgres.rows and member.attempt(arrival) and arrival.id in postgres.rows:
                assert before <= postgres.rows.keys()
            elif arrival in member.ready:
                member.attempt(arrival)
    assert postgres.rows.keys() == {str(id_) for id_ in events}
    assert not any(member.settlement.in_flight or member.order.waiting for member in members)
