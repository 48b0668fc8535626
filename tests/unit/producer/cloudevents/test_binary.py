"""Binary mode: an event whose attributes are headers is the same event as its structured form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.bare import Bare
from oncecast.producer.cloudevents.binary import is_binary, to_structured
from oncecast.producer.cloudevents.parse import STRUCTURED, read_publication

HEADERS = {b"ce-specversion": b"1.0", b"ce-id": b"1", b"ce-source": b"/s", b"ce-type": b"t"}


def read(body: bytes, content_type: str, *more: tuple[str, str]) -> dict[str, Any]:
    headers = [*HEADERS.items(), *((name.encode(), value.encode()) for name, value in more), (b"host", b"localhost")]
    event = to_structured(body, content_type, headers)
    return json.loads(read_publication(event, STRUCTURED, Bare(), event_max_bytes=10_000).events[0])  # type: ignore[no-any-return]


def test_json_data_is_kept_unchanged() -> None:
    assert read(b'{"x" : 1.50}', "application/json", ("ce-subject", "x")) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "subject": "x",
        "datacontenttype": "application/json",
        "data": {"x": 1.5},
    }


def test_anything_but_json_is_kept_as_bytes_and_no_body_is_no_data() -> None:
    assert read(b"\x00\xff", "image/png")["data_base64"] == "AP8="
    assert not {"data", "data_base64", "datacontenttype"} & read(b"", "").keys()


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/plain; charset=UTF-8", "Text/CSV", "application/xml", "image/svg+xml"]
)
def test_text_in_utf8_is_a_string_in_binary_mode_as_in_structured_mode(content_type: str) -> None:
    event = read("a €\n".encode(), content_type)
    assert (event["data"], event["datacontenttype"]) == ("a €\n", content_type)
    assert "data_base64" not in event


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"\xff", "text/plain"), (b"a\x00b", "text/plain"), (b"abc", "text/plain; charset=utf-16")],
)
def test_text_that_is_not_utf8_or_that_postgresql_cannot_hold_stays_bytes(body: bytes, content_type: str) -> None:
    assert "data_base64" in read(body, content_type)


def test_header_values_are_unquoted_and_percent_decoded() -> None:
    assert read(b"", "", ("ce-subject", "Euro%20%E2%82%AC"))["subject"] == "Euro €"
    assert read(b"", "", ("ce-ext", '"a \\"b\\""'))["ext"] == 'a "b"'


@pytest.mark.parametrize(
    ("body", "content_type", "header", "status", "said"),
    [
        (b"{", "application/json", ("ce-a", "1"), 400, "the data is not JSON"),
        (b'1,"id":"2"', "application/json", ("ce-a", "1"), 400, "the data is not JSON"),
        (b"1e999", "application/vnd.x+json", ("ce-a", "1"), 422, "the data"),
        (b"[" * 1_000_000, "application/json", ("ce-a", "1"), 422, "too deeply"),
        (b"", "", ("ce-id", "2"), 400, "ce-id"),
        (b"", "", ("ce-data", "2"), 400, "ce-data"),
        (b"", "", ("ce-subject", "%ff"), 400, "ce-subject"),
        (b"", "", ("ce-subject", "%00"), 422, "u0000"),
        (b"", "", ("ce-time", "noon"), 422, '"time"'),
        (b"", "", ("ce-trace-parent", "x"), 422, "trace-parent"),
    ],
)
def test_invalid_input_is_refused_with_the_place(
    body: bytes, content_type: str, header: tuple[str, str], status: int, said: str
) -> None:
    with pytest.raises(Problem) as caught:
        read(body, content_type, header)
    assert (caught.value.status, said in caught.value.detail) == (status, True), caught.value.detail


def test_headers_choose_binary_mode_unless_the_content_is_structured() -> None:
    assert is_binary("application/json", HEADERS)
    assert not is_binary("application/json", {b"ce-id": b"1"})
    assert not is_binary("Application/CloudEvents+json", HEADERS)
