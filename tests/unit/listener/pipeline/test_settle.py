"""Settling moves tracks, writes done markers, and releases a second arrival after the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.telemetry import ConflictsFound, Duplicates, Persisted, TelemetryEvent
from oncecast.listener.pipeline.repeats import Repeats
from oncecast.listener.pipeline.settle import Settlement
from oncecast.listener.recent import Recent
from oncecast.tasks import STALL_S, Essentials, cancel_all
from tests.support.arrivals import arrivals, track, track_of
from tests.support.clock import ManualClock


class Gate:
    """Keeps what it was asked to mark."""

    def __init__(self) -> None:
        self.marked: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    async def settle(self, batch: Sequence[Arrival]) -> None:
        self.marked += [x.id for x in batch]
        self.meanwhile()


class Harness:
    def __init__(self) -> None:
        self.gate = Gate()
        self.telemetry_events: list[TelemetryEvent] = []
        self.released: list[Arrival] = []
        self.ended: list[Arrival] = []
        self.settlement = Settlement(
            self.gate,  # type: ignore[arg-type]
            Recent("a", SYSTEM_CLOCK),
            SYSTEM_CLOCK,
            release=self.released.append,
            ended=self.ended.append,
            was_let_go=lambda _arrival: None,
            record=self.telemetry_events.append,
        )


async def test_ended_events_move_the_watermark_and_only_leased_ones_get_done_markers() -> None:
    at = Harness()
    work = arrivals(3)
    work[0].leased = work[2].leased = True
    assert at.settlement.enter(work) == work
    at.settlement.settle(work, [Outcome.STORED, Outcome.PRESENT, Outcome.CONFLICT])
    assert track_of(work[0]).watermark.value == 3
    assert at.settlement.in_flight == 0
    await at.settlement.mark()
    assert at.gate.marked == ["1", "3"]
    assert [type(telemetry) for telemetry in at.telemetry_events] == [Persisted, Duplicates, ConflictsFound]


async def test_events_that_end_while_done_markers_are_written_wait_for_the_next_call() -> None:
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


async def test_a_second_arrival_waits_for_the_first_and_is_then_released() -> None:
    at = Harness()
    (first,), (second,), (third,) = arrivals(1), arrivals(1), arrivals(1)
    assert at.settlement.enter([first]) == [first]
    assert at.settlement.enter([second, third]) == []
    at.settlement.settle([first], [Outcome.STORED])
    assert at.released == []
    at.settlement.release_repeated()
    assert at.released == [second]
    assert track_of(second).watermark.value == 0
    at.settlement.settle([second], [Outcome.DUPLICATE])
    at.settlement.release_repeated()
    at.settlement.settle([third], [Outcome.CONFLICT])
    assert at.released == [second, third]
    assert at.settlement.in_flight == 0
    assert {track_of(x).watermark.value for x in (first, second, third)} == {1}


async def test_arrivals_of_several_journals_end_in_their_own() -> None:
    at = Harness()
    here, there = track(), track()
    mixed = [*arrivals(2, on=here), *[x for x in arrivals(4, on=there) if x.id > "2"]]
    at.settlement.enter(mixed)
    at.settlement.settle(mixed, [Outcome.STORED] * len(mixed))
    assert (here.watermark.value, there.watermark.value) == (2, 0)


def repeated(at: Harness, count: int) -> list[Arrival]:
    """A first arrival that has ended, and `count` more of its identity that wait."""
    on = track()
    (first,) = arrivals(1, on=on)
    others = []
    for offset in range(2, count + 2):
        on.watermark.arrive(offset, offset)
        (other,) = arrivals(1)
        other.track, other.offset = on, offset
        others.append(other)
    at.settlement.enter([first, *others])
    at.settlement.settle([first], [Outcome.STORED])
    return others


async def test_all_arrivals_of_an_identity_that_has_ended_are_compared_together() -> None:
    at = Harness()
    others = repeated(at, 5)
    assert at.settlement.has_repeated.is_set()
    assert at.settlement.take_repeated(1_000, 1_000_000) == others
    assert not at.settlement.has_repeated.is_set()
    at.settlement.end_repeated(others, [Outcome.DUPLICATE] * 4 + [Outcome.CONFLICT])
    assert (at.settlement.in_flight, at.released, track_of(others[0]).watermark.value) == (0, [], 6)
    assert [type(telemetry) for telemetry in at.telemetry_events] == [Persisted, Duplicates, ConflictsFound]


async def test_arrivals_that_exceed_a_batch_are_in_the_next() -> None:
    at = Harness()
    others = repeated(at, 5)
    for expected in (others[:2], others[2:4], others[4:]):
        assert at.settlement.take_repeated(2, 1_000_000) == expected
        at.settlement.end_repeated(expected, [Outcome.DUPLICATE] * len(expected))
    assert at.settlement.in_flight == 0
    assert at.settlement.take_repeated(2, 1_000_000) == []


async def test_a_batch_ends_with_the_event_that_makes_it_too_large() -> None:
    at = Harness()
    others = repeated(at, 3)
    assert at.settlement.take_repeated(1_000, 1) == others[:1]


async def test_without_a_row_the_first_arrival_is_attempted_and_the_others_wait_for_it() -> None:
    at = Harness()
    others = repeated(at, 3)
    taken = at.settlement.take_repeated(1_000, 1_000_000)
    at.settlement.end_repeated(taken, [None] * 3)
    assert at.released == others[:1]
    at.settlement.settle(others[:1], [Outcome.STORED])
    assert at.settlement.take_repeated(1_000, 1_000_000) == others[1:]


async def test_an_arrival_that_comes_while_its_identity_is_compared_waits_for_the_next_batch() -> None:
    at = Harness()
    others = repeated(at, 2)
    taken = at.settlement.take_repeated(1_000, 1_000_000)
    (late,) = arrivals(1)
    assert at.settlement.enter([late]) == []
    at.settlement.end_repeated(taken, [Outcome.DUPLICATE] * 2)
    assert at.settlement.take_repeated(1_000, 1_000_000) == [late]
    assert track_of(others[0]).watermark.value == 3


async def test_a_comparison_without_an_answer_stops_the_comparisons() -> None:
    clock = ManualClock()
    at, essentials, asked = Harness(), Essentials(clock, end_within_s=10), asyncio.Event()

    class Silent:
        async def wait(self) -> None:
            return

        async def compare(self, _batch: Sequence[Arrival]) -> list[Outcome | None]:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    store: Any = Silent()
    comparing = Repeats(store, store, at.settlement).compare_loop()
    task = essentials.start(comparing, "comparison of repeated arrivals")
    await asyncio.sleep(0)
    assert not essentials.trouble  # it waits for work
    repeated(at, 1)
    await asked.wait()
    assert essentials.trouble is None
    clock.now_s += STALL_S + 1
    assert "comparison of repeated arrivals is stalled" in (essentials.trouble or "")
    await cancel_all([task])
