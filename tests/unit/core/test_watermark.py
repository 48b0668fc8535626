"""The watermark is the finished prefix of a journal's offsets."""

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.watermark import Watermark


@given(st.integers(0, 5), st.permutations(range(1, 30)), st.integers(0, 29))
def test_it_is_before_the_first_offset_that_has_not_ended(after: int, order: list[int], count: int) -> None:
    watermark = Watermark(after)
    watermark.arrive(after + 1, after + 29)
    ended = [after + offset for offset in order[:count]]
    for offset in ended:
        watermark.end(offset, offset)
    expected = after
    while expected + 1 in ended:
        expected += 1
    assert watermark.value == expected


def test_an_overlap_is_not_new_and_a_gap_counts_as_ended() -> None:
    watermark = Watermark(10)
    assert watermark.arrive(5, 12) == 11
    assert watermark.arrive(3, 12) == 13
    watermark.end(11, 12)
    assert watermark.arrive(20, 21) == 20
    assert (watermark.value, watermark.received) == (19, 21)


def test_a_gap_of_any_size_waits_for_the_offsets_before_it() -> None:
    watermark = Watermark(0)
    watermark.arrive(1, 1)
    watermark.arrive(10**15, 10**15)
    watermark.end(10**15, 10**15)
    assert watermark.value == 0
    watermark.end(1, 1)
    assert watermark.value == 10**15


def test_ending_twice_changes_nothing() -> None:
    watermark = Watermark(0)
    watermark.arrive(1, 3)
    for offset in (1, 1, 3, 3):
        watermark.end(offset, offset)
    assert watermark.value == 1


def test_adjacent_runs_behind_a_stuck_offset_are_one() -> None:
    watermark = Watermark(0)
    watermark.arrive(1, 1_000)
    for offset in (*range(2, 1_001, 2), *range(3, 1_001, 2)):
        watermark.end(offset, offset)
    assert (watermark.value, watermark._ended) == (0, {2: 1_000})
    watermark.end(1, 1)
    assert (watermark.value, watermark._ended, watermark._first_of) == (1_000, {}, {})
