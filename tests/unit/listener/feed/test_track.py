"""A track knows what has come of a journal, what has ended, and to whom the credit belongs."""

from __future__ import annotations

import gc
import sys
import weakref

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.event import Cursor
from oncecast.core.ranges import EVENT_COST_BYTES
from oncecast.core.wire import Events, Gap, decode_server_frame, events_frame
from tests.support.arrivals import Credit, frame, receive, receive_ranges, track


def test_arrivals_have_their_offset_and_their_bytes() -> None:
    (first, second) = receive(track(6), frame(7, "a", "b"))
    assert [(x.offset, x.id, x.source, x.type, x.cursor) for x in (first, second)] == [
        (7, "a", "/oncecast", "tick", "e1:7"),
        (8, "b", "/oncecast", "tick", "e1:8"),
    ]
    assert msgspec.json.decode(second.raw)["id"] == "b"


def test_a_superseded_track_keeps_nothing_in_memory() -> None:
    """Arrivals reference their track and are not garbage-collected: held by it, they would keep each other alive."""
    on = track()
    arrivals = receive(on, frame(1, "a", "b"))
    on.abandon()
    arrivals += receive(on, frame(3, "c"))
    on.end(arrivals)
    gone = weakref.ref(on)
    del on, arrivals
    gc.collect()
    assert gone() is None


def test_a_superseded_track_counts_busy_arrivals_neither_ended_nor_dropped() -> None:
    on = track()
    ended, ends, dropped, waiting = busy = receive(on, frame(1, "a", "b", "c", "d"))
    for arrival in busy:
        arrival.busy = arrival is not waiting
    ended.gone = True
    on.end([ended])
    on.abandon()
    on.abandon()
    assert on.abandoned_bytes == ends.cost_bytes + dropped.cost_bytes
    on.end([ends])
    on.end([ends])
    assert on.abandoned_bytes == dropped.cost_bytes
    on.drop(dropped)
    assert on.abandoned_bytes == 0


def test_the_overlap_of_a_frame_is_dropped() -> None:
    on = track(7)
    assert [x.id for x in receive(on, frame(6, "a", "b", "c"))] == ["c"]
    assert receive(on, frame(6, "a", "b", "c")) == []


LATE = frame(1, "a").replace(b'"at":1700000000000000', b'"at":9223372036854775808')
"""Beyond any clock, and beyond what PostgreSQL takes for a whole number."""


@pytest.mark.parametrize(
    "text", [frame(0, "a"), frame(2, "a"), frame(10**15, "a"), frame(10**20, "a"), frame(1), LATE]
)
def test_a_frame_that_no_journal_sends_or_that_would_skip_events_is_an_error(text: bytes) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        receive(track(), text)


def test_offsets_that_the_producer_has_deleted_are_skipped() -> None:
    on = track(5)
    on.first = 1_000_000_000
    (only,) = receive_ranges(on, frame(1_000_000_000, "a"))
    on.record(only)
    assert on.watermark.value == 1_000_000_000


def test_a_gap_is_passed_over_by_the_watermark_and_waits_for_the_cursor() -> None:
    on = track(5)
    (before,) = receive_ranges(on, frame(6, "a"))
    on.skip(Gap(first=7, last=9))
    (behind,) = receive_ranges(on, frame(10, "b"))
    on.record(before)
    on.record(behind)
    assert (on.watermark.value, on.recorded) == (10, 6)
    on.save(Cursor("e1", 6))
    assert on.gaps[0].first == 7
    on.save(Cursor("e1", 9))
    assert (list(on.gaps), on.recorded) == ([], 10)


def test_adjacent_gaps_are_one_in_memory_in_however_many_frames_they_come() -> None:
    on = track(5)
    (before,) = receive_ranges(on, frame(6, "a"))
    for offset in range(7, 107):
        on.skip(Gap(first=offset, last=offset))
    assert list(on.gaps) == [Gap(first=7, last=106)]
    on.record(before)
    assert on.watermark.value == 106


def test_a_gap_that_grows_while_the_cursor_passes_its_beginning_keeps_the_rest() -> None:
    on = track(5)
    on.skip(Gap(first=6, last=7))
    on.skip(Gap(first=8, last=9))
    on.save(Cursor("e1", 7))
    assert list(on.gaps) == [Gap(first=8, last=9)]


def test_an_event_between_two_gaps_keeps_them_apart() -> None:
    on = track(5)
    on.skip(Gap(first=6, last=6))
    (between,) = receive_ranges(on, frame(7, "a"))
    on.skip(Gap(first=8, last=8))
    assert list(on.gaps) == [Gap(first=6, last=6), Gap(first=8, last=8)]
    on.record(between)
    assert on.watermark.value == 8


def test_a_gap_that_was_received_before_it_came_about_is_none_and_one_that_would_skip_events_an_error() -> None:
    on = track(5)
    on.skip(Gap(first=3, last=5))
    assert not on.gaps
    with pytest.raises(ValueError, match="7"):
        on.skip(Gap(first=7, last=9))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400)), min_size=1, max_size=6), st.data())
def test_all_credit_of_what_has_ended_and_is_saved_goes_back_to_the_byte(
    frames: list[tuple[int, int]], data: st.DataObject
) -> None:
    credit = Credit()
    on = track(0, credit)
    sent_bytes, ranges = 0, []
    for count, size_bytes in frames:
        begin = data.draw(st.integers(max(1, on.watermark.received), on.watermark.received + 1))
        text = frame(begin, *(f"{begin + n}" for n in range(count)), size_bytes=size_bytes)
        sent_bytes += len(text) + count * EVENT_COST_BYTES
        ranges += receive_ranges(on, text)
    assert credit.bytes <= sent_bytes
    for arrival in data.draw(st.permutations([arrival for each in ranges for arrival in each.arrivals])):
        on.end([arrival])
    for each in ranges:
        on.record(each)
    assert on.watermark.value == on.watermark.received
    on.save(on.cursor_at(on.watermark.value))
    assert credit.bytes == sent_bytes


def test_the_watermark_moves_over_recorded_ranges_and_the_saved_cursor_never_goes_back() -> None:
    on = track()
    a, b, c = receive_ranges(on, frame(1, "a", "b", "c"), 1)
    on.record(a)
    on.record(c)
    assert on.recorded == 1
    on.record(b)
    assert on.recorded == 3
    on.save(Cursor("e1", 2))
    on.save(Cursor("e1", 1))
    assert on.saved == Cursor("e1", 2)


def test_an_event_that_stays_does_not_keep_the_rest_of_its_frame_in_memory() -> None:
    """A `msgspec.Raw` of a decoded frame is a view: one retried event would hold a frame of a MiB."""
    text = frame(1, "a", "b", "c", size_bytes=1_000)
    references = sys.getrefcount(text)
    (stays, *_) = receive(track(), text)
    assert sys.getrefcount(text) == references
    assert msgspec.json.decode(stays.raw)["id"] == "a"


def test_an_event_that_ends_behind_the_saved_cursor_returns_all_its_credit() -> None:
    credit = Credit()
    on = track(0, credit)
    text = frame(1, "a", "b")
    a, b = receive(on, text)
    on.end([a])
    on.save(Cursor("e1", 2))
    on.end([b])
    assert credit.bytes == len(text) + 2 * EVENT_COST_BYTES


@pytest.mark.parametrize("decode", [True, False])
def test_no_event_keeps_the_frame_that_brought_it(decode: bool) -> None:
    on = track()
    text = frame(1, *map(str, range(9)))
    before = sys.getrefcount(text)
    decoded = decode_server_frame(text)
    assert isinstance(decoded, Events)
    ranges = on.receive(decoded, text, 8, decode=decode)
    del decoded
    assert [each.unended for each in ranges] == [8, 1]
    assert sys.getrefcount(text) == before


def test_a_range_with_an_event_that_cannot_be_decoded_is_named_without_it() -> None:
    on = track()
    decoded = decode_server_frame(events_frame(1, 0, b'[{"id":"a","source":"/s","type":"t"},7]'))
    assert isinstance(decoded, Events)
    (each,) = on.receive(decoded, b"", 8, decode=False)
    assert (each.first_id, each.last_id) == ("a", "?")
