from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.cli.events.file import LINE_BYTES_MAX, BadInput, EventsFile, LineSplitter, with_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=5)


def read(content: bytes, path: Path) -> tuple[list[bytes], list[int], EventsFile]:
    """All events of a file with this content, their numbers, and the reader."""
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    events: list[bytes] = []
    numbers: list[int] = []

    async def gather() -> EventsFile:
        source = EventsFile(descriptor)
        async for run, places in source.runs():
            events.extend(run)
            numbers.extend(places)
        return source

    try:
        return events, numbers, asyncio.run(gather())
    finally:
        os.close(descriptor)


def split(blocks: Sequence[bytes]) -> list[tuple[int, bytes]]:
    splitter = LineSplitter()
    lines: list[tuple[int, bytes]] = []
    for result in [*map(splitter.feed, blocks), splitter.finish()]:
        lines += enumerate(result[0], result[1])
    return lines


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=4), st.booleans())
def test_lines_survive_blocks_that_end_at_any_byte(objects: list[dict[str, Any]], newline_at_end: bool) -> None:
    """Wherever the blocks end, the same lines with the same numbers come out."""
    lines = [msgspec.json.encode(value) for value in objects]
    content = b"\n".join(lines) + (b"\n" if newline_at_end and lines else b"")
    expected = list(enumerate(lines, 1))
    for size in range(1, len(content) + 1):
        assert split([content[i : i + size] for i in range(0, len(content), size)]) == expected
    for cut in range(len(content) + 1):
        assert split([content[:cut], content[cut:]]) == expected


@given(st.lists(json_objects, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \n"]), st.booleans())
def test_ndjson_and_arrays_of_any_objects_are_read(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]], end: bytes, as_array: bool
) -> None:
    """Every object comes out once, in order, changed by nothing but the id that it lacked."""
    path = tmp_path_factory.getbasetemp() / "events"
    content = msgspec.json.encode(objects) if as_array else end.join(msgspec.json.encode(value) for value in objects)
    events, _, source = read(content, path)
    decoded = [msgspec.json.decode(event) for event in events]
    assert [
        {**value, "id": value.get("id", event["id"])} for value, event in zip(objects, decoded, strict=True)
    ] == decoded
    assert source.ids_given == sum("id" not in value for value in objects)
    assert source.noun == ("element" if as_array else "line")


@given(json_objects)
def test_with_id_adds_an_id_and_nothing_else(value: dict[str, Any]) -> None:
    """with_id puts a fresh id before the members of any JSON object, however it is laid out."""
    value.pop("id", None)
    for text in (msgspec.json.encode(value), msgspec.json.format(msgspec.json.encode(value), indent=2) + b" \r"):
        given_id = msgspec.json.decode(with_id(text)).pop("id")
        assert msgspec.json.decode(with_id(text)) | {"id": given_id} == {"id": given_id, **value}
        assert given_id.startswith("evt_")


def test_ids_that_are_given_are_all_different(tmp_path: Path) -> None:
    """Two equal lines without ids are two events."""
    events, _, source = read(b'{"a":1}\n{"a":1}\n', tmp_path / "events")
    assert len({msgspec.json.decode(event)["id"] for event in events}) == 2
    assert source.ids_given == 2


def test_lines_with_an_id_stay_the_bytes_they_are(tmp_path: Path) -> None:
    """A line that has an id, whatever it is, is not touched."""
    lines = [b'{ "id":1 , "x":1.50e3}', b'{"id":null}', b'{"id":"\\u0041","id":"b"}']
    assert read(b"\n".join(lines), tmp_path / "events")[0] == lines


def test_blank_lines_are_counted_but_are_no_events(tmp_path: Path) -> None:
    """Numbers are those of the lines as an editor shows them, blank ones included."""
    events, numbers, _ = read(b'\n{"id":1}\r\n\r\n  \n{"id":2}\n\n', tmp_path / "events")
    assert [event.strip() for event in events] == [b'{"id":1}', b'{"id":2}']
    assert numbers == [2, 5]


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    """What some editors put before the first byte is no part of the first event."""
    assert read(b'\xef\xbb\xbf{"id":1}', tmp_path / "events")[0] == [b'{"id":1}']
    assert read(b'\xef\xbb\xbf[{"id":1}]', tmp_path / "events")[0] == [b'{"id":1}']


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n", b"[]", b" [ ] \n", b"\xef\xbb\xbf"])
def test_a_file_without_events_has_none(content: bytes, tmp_path: Path) -> None:
    """An empty file, blank lines and an empty array are no error."""
    assert read(content, tmp_path / "events")[0] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id":1}\n\n{"id":2\n{"id":3}\n', "line 3 is no JSON object"),
        (b'{"id":1}\n17\n', "line 2 is no JSON object"),
        (b'{"id":1}\n[{"id":2}]\n', "line 2 is no JSON object"),
        (b'{"id":1},{"id":2}\n', "line 1 is no JSON object"),
        (b'{"id":1}\n{"a":' + b"[" * 100_000, "line 2 is no JSON object"),
        (b'[{"id":1},2]', "element 2 is no JSON object"),
        (b'[{"id":1},', "not a JSON array"),
        (b'[{"id":1}] x', "not a JSON array"),
    ],
)
def test_a_bad_line_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """What is no JSON object is an error that names its line, or its place in the array."""
    with pytest.raises(BadInput, match=message):
        read(content, tmp_path / "events")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """A line longer than any event may be is an error that names it."""
    with pytest.raises(BadInput, match="line 2 is longer"):
        read(b'{"id":1}\n{"id":"' + b"x" * LINE_BYTES_MAX, tmp_path / "events")


async def test_a_pipe_is_read_as_it_comes() -> None:
    """Lines written to a pipe come out before it is closed, and reading it can be interrupted."""
    receiving, sending = os.pipe()
    runs = EventsFile(receiving).runs()
    os.write(sending, b'{"id":1}\n{"id":')
    assert (await anext(runs))[0] == [b'{"id":1}']
    os.write(sending, b"2}\n")
    assert (await anext(runs))[0] == [b'{"id":2}']
    waiting: asyncio.Task[Any] = asyncio.ensure_future(anext(runs))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(sending)
    os.close(receiving)
