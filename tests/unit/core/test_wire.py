"""Where a reader resumes, whatever has happened to the journal meanwhile."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.event import Cursor
from oncecast.core.wire import (
    Epoch,
    Events,
    decode_heads,
    decode_server_frame,
    epoch_of,
    events_frame,
    resume_after,
)


def epochs(**firsts: int) -> list[Epoch]:
    return [Epoch(name, first) for name, first in firsts.items()]


def test_without_a_cursor_everything_is_read() -> None:
    assert resume_after(None, [], epochs(a=1)) == 0


@pytest.mark.parametrize(
    ("cursor", "known", "served", "after"),
    [
        (Cursor("a", 50), epochs(a=1), epochs(a=1), 50),
        (Cursor("a", 99), epochs(a=1), epochs(a=1, b=100), 99),
        (Cursor("b", 150), epochs(a=1, b=100), epochs(a=1, b=100, c=200), 150),
    ],
)
def test_in_a_journal_that_only_grew_it_resumes_at_its_offset(
    cursor: Cursor, known: list[Epoch], served: list[Epoch], after: int
) -> None:
    assert resume_after(cursor, known, served) == after


@pytest.mark.parametrize(
    ("cursor", "known", "served", "after"),
    [
        (Cursor("b", 150), epochs(a=1, b=100), epochs(a=1, c=81), 80),  # restored from before b
        (Cursor("b", 150), epochs(a=1, b=100), epochs(a=1, b=100, c=121), 120),  # restored from within b
        (Cursor("b", 150), epochs(a=1, b=100), epochs(a=1, c=400), 99),  # a copy that has grown past us
        (Cursor("a", 60), epochs(a=1), epochs(a=1, c=41), 40),
        (Cursor("x", 60), epochs(x=1), epochs(a=1), 0),  # another journal altogether
    ],
)
def test_in_a_restored_journal_it_resumes_after_the_common_part(
    cursor: Cursor, known: list[Epoch], served: list[Epoch], after: int
) -> None:
    assert resume_after(cursor, known, served) == after


def test_an_epoch_that_the_reader_has_not_begun_to_read_does_not_count() -> None:
    assert resume_after(Cursor("a", 99), epochs(a=1, b=100), epochs(a=1, c=100)) == 99
    assert resume_after(Cursor("a", 50), epochs(a=1, b=100), epochs(a=1, b=100)) == 50


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[int, str]], list[Epoch], list[tuple[int, str]], list[Epoch]]:
    """Two histories of a journal with a common beginning: what each holds, `(offset, epoch)`, and its openings."""

    def grow(log: list[tuple[int, str]], opened: list[Epoch], name: str) -> tuple[list[tuple[int, str]], list[Epoch]]:
        for n, length in enumerate(draw(st.lists(st.integers(0, 4), max_size=3))):
            first = len(log) + 1
            opened = [*opened, Epoch(f"{name}{n}", first)]
            log = log + [(first + i, f"{name}{n}") for i in range(length)]
        return log, opened

    shared = grow([(1, "o")], [Epoch("o", 1)], "s")
    cut = draw(st.integers(0, len(shared[0])))
    copy = shared[0][:cut], [e for e in shared[1] if e.first <= max(cut, 1)]
    return *grow(*shared, "x"), *grow(*copy, "y")


@given(histories(), st.data())
def test_a_reader_never_skips_what_it_has_not_read(
    both: tuple[list[tuple[int, str]], list[Epoch], list[tuple[int, str]], list[Epoch]], data: st.DataObject
) -> None:
    here, known, there, served = both
    read = data.draw(st.integers(1, len(here)))
    seen = set(here[:read])
    after = resume_after(Cursor(epoch_of(known, read), read), known, served)
    assert all(place in seen for place in there if place[0] <= after)


def test_a_frame_has_the_journals_bytes_unchanged() -> None:
    body = b'[{"id":"a","source":"/s","type":"t","data":{"x" : 1.50}}]'
    frame = decode_server_frame(events_frame(7, 123, body))
    assert isinstance(frame, Events)
    assert (frame.offset, frame.at, [bytes(e) for e in frame.events]) == (7, 123, [body[1:-1]])
    assert [(h.id, h.source, h.type) for h in decode_heads(body)] == [("a", "/s", "t")]


def test_unknown_fields_are_ignored_and_unknown_verbs_are_not() -> None:
    assert isinstance(decode_server_frame(b'{"verb":"events","offset":1,"at":0,"events":[],"more":1}'), Events)
    with pytest.raises(msgspec.ValidationError):
        decode_server_frame(b'{"verb":"surprise"}')


@given(st.text(max_size=40))
def test_a_cursor_is_parsed_or_raises_value_error(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    assert Cursor.parse(str(cursor)) == cursor
