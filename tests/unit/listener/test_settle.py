"""Settling tells tracks, marks leases, and lets a second arrival of an identity go its own way after the first."""

from __future__ import annotations

from collections.abc import Sequence

from oncecast.core.event import Arrival
from oncecast.core.facts import Conflicts, Duplicates, Fact, Persisted
from oncecast.core.ports import Outcome
from oncecast.listener.recent import Recent
from oncecast.listener.settle import Settlement
from tests.support.arrivals import arrivals, track


class Gate:
    """Keeps what it was asked to mark."""

    def __init__(self) -> None:
        self.marked: list[str] = []
        self.meanwhile = lambda: None

    async def settle(self, batch: Sequence[Arrival]) -> None:
        self.marked += [x.id for x in batch]
        self.meanwhile()


class Harness:
    def __init__(self) -> None:
        self.gate = Gate()
        self.facts: list[Fact] = []
        self.released: list[Arrival] = []
        self.ended: list[Arrival] = []
        self.settlement = Settlement(
            self.gate,  # type: ignore[arg-type]
            Recent("a"),
            release=self.released.append,
            ended=self.ended.append,
            was_let_go=lambda _arrival: None,
            observe=self.facts.append,
        )


async def test_what_has_ended_moves_the_watermark_and_only_our_leases_are_marked() -> None:
    at = Harness()
    work = arrivals(3)
    work[0].leased = work[2].leased = True
    assert at.settlement.enter(work) == work
    at.settlement.settle(work, [Outcome.STORED, Outcome.PRESENT, Outcome.CONFLICT])
    assert work[0].track.watermark.value == 3
    assert at.settlement.in_flight == 0
    await at.settlement.mark()
    assert at.gate.marked == ["1", "3"]
    assert [type(fact) for fact in at.facts] == [Persisted, Duplicates, Conflicts]


async def test_what_ends_while_marks_are_written_gathers_for_the_next_call() -> None:
    at = Harness()
    work = arrivals(2)
    work[0].leased = work[1].leased = True
    at.settlement.enter(work)
    at.gate.meanwhile = lambda: at.settlement.settle(work[1:], [Outcome.STORED] * len(work[1:]))
    at.settlement.settle(work[:1], [Outcome.STORED])
    await at.settlement.mark()
    assert at.gate.marked == ["1"]
    at.gate.meanwhile = lambda: None
    await at.settlement.mark()
    assert at.gate.marked == ["1", "2"]


async def test_a_second_arrival_waits_for_the_first_and_is_then_let_go_not_dropped() -> None:
    at = Harness()
    (first,), (second,), (third,) = arrivals(1), arrivals(1), arrivals(1)
    assert at.settlement.enter([first]) == [first]
    assert at.settlement.enter([second, third]) == []
    at.settlement.settle([first], [Outcome.STORED])
    assert at.released == [second]
    assert second.track.watermark.value == 0
    at.settlement.settle([second], [Outcome.DUPLICATE])
    at.settlement.settle([third], [Outcome.CONFLICT])
    assert at.released == [second, third]
    assert at.settlement.in_flight == 0
    assert {x.track.watermark.value for x in (first, second, third)} == {1}


async def test_arrivals_of_several_journals_end_in_their_own() -> None:
    at = Harness()
    here, there = track(), track()
    mixed = [*arrivals(2, on=here), *[x for x in arrivals(4, on=there) if x.id > "2"]]
    at.settlement.enter(mixed)
    at.settlement.settle(mixed, [Outcome.STORED] * len(mixed))
    assert (here.watermark.value, there.watermark.value) == (2, 0)
