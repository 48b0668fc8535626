"""Listeners that receive the same frames cut them into the same ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.ranges import HANDLED_RANGE_EVENTS, RANGE_MAX_EVENTS, RangeRules, cut, range_rules
from tests.support.arrivals import frame, receive_ranges, track


@given(st.integers(1, 10**15), st.integers(0, 5_000), st.integers(1, RANGE_MAX_EVENTS))
def test_ranges_are_dense_and_at_most_of_the_size(first: int, count: int, size: int) -> None:
    ranges = list(cut(first, first + count - 1, size))
    due = first
    for begin, end in ranges:
        assert begin == due
        assert 1 <= end - begin + 1 <= size
        due = end + 1
    assert due == first + count


@given(st.integers(1, 40), st.integers(1, 50), st.data())
def test_a_listener_that_resumes_within_a_frame_has_the_ranges_of_the_others(
    count: int, size: int, data: st.DataObject
) -> None:
    text = frame(1, *map(str, range(count)), size_bytes=1)
    after = data.draw(st.integers(0, count))
    whole, rest = receive_ranges(track(), text, size), receive_ranges(track(after), text, size)
    assert [each.place for each in rest] == [each.place for each in whole if each.last > after]
    assert [arrival.offset for each in rest for arrival in each.arrivals] == [*range(after + 1, count + 1)]
    assert all(each.unended == len(each.arrivals) for each in rest)


@pytest.mark.parametrize(
    ("batch_sizes", "size"),
    [
        ([], RANGE_MAX_EVENTS),
        ([1], HANDLED_RANGE_EVENTS),
        ([1, 500], HANDLED_RANGE_EVENTS),
        ([500, 100], 100),
        ([9_999], RANGE_MAX_EVENTS),
    ],
)
def test_the_smallest_batches_of_the_application_determine_the_size(batch_sizes: list[int], size: int) -> None:
    assert range_rules(batch_sizes) == RangeRules(size, decoded=bool(batch_sizes))
