"""A request is accepted whole and unchanged, or refused with the invalid place."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oncecast.core.wire import decode_heads
from oncecast.http.problems import Problem
from oncecast.producer.cloudevents import parse
from oncecast.producer.cloudevents.bare import Bare
from oncecast.producer.cloudevents.parse import Publication, read_publication

MAX_BYTES = 10_000


def read(body: bytes | str, content_type: str = "application/json", **bare: Any) -> Publication:
    text = body.encode() if isinstance(body, str) else body
    return read_publication(text, content_type, Bare(**bare), event_max_bytes=MAX_BYTES)


def refusal(body: bytes | str, content_type: str = "application/json") -> Problem:
    with pytest.raises(Problem) as caught:
        read(body, content_type)
    return caught.value


def structured(**attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **attributes}


def test_a_structured_event_is_kept_byte_for_byte() -> None:
    body = b'{ "specversion":"1.0", "id":"1","source":"/s","type":"t","data":{"x" : 1.50} }'
    assert read(body).events == [body]
    assert read(b"[" + body + b" ]").events == [body]
    assert read(body + b"\n\n", "application/x-ndjson").events == [body]


def test_a_bare_object_becomes_the_data_of_an_event() -> None:
    publication = read('{"id":7,"type":"quake","mag":2}', source="/usgs", subject="x")
    event = json.loads(publication.events[0])
    assert event == {
        "specversion": "1.0",
        "id": "7",
        "source": "/usgs",
        "type": "quake",
        "subject": "x",
        "datacontenttype": "application/json",
        "data": {"id": 7, "type": "quake", "mag": 2},
    }
    assert publication.identities == [("/usgs", "7")]


@pytest.mark.parametrize("identifier", [True, 1.5, None, [], {}])
def test_a_bare_id_that_is_neither_text_nor_whole_number_is_only_data(identifier: object) -> None:
    assert read(json.dumps({"id": identifier})).identities[0][1].startswith("evt_")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("[]", "application/json"),
        (" [ ] ", "application/cloudevents-batch+json"),
        ("", "application/x-ndjson"),
        ("\n \n", "application/x-ndjson"),
    ],
)
def test_an_empty_batch_is_a_valid_publication_of_zero_events(body: str, content_type: str) -> None:
    assert read(body, content_type) == Publication([], [])


def test_an_idempotency_key_makes_the_same_ids_again() -> None:
    body = '[{"a":1},{"a":2}]'
    first, again = (read(body, idempotency_key="k").identities for _ in range(2))
    assert first == again
    assert first[0] != first[1]
    assert read(body, idempotency_key="other").identities != first


@pytest.mark.parametrize(
    ("body", "content_type", "status", "said"),
    [
        ("", "application/json", 400, "not JSON"),
        ("{", "application/json", 400, "not JSON"),
        (b"\xff", "application/json", 400, "UTF-8"),
        (b'"\xed\xa0\x80"', "application/json", 400, "UTF-8"),
        (b"\xef\xbb\xbf{}", "application/json", 400, "byte order mark"),
        ("null", "application/json", 422, "null"),
        ("7", "application/json", 422, "a number"),
        ('"x"', "application/json", 422, "a text"),
        ("{}\n{\n", "application/x-ndjson", 400, "line 2"),
        ("{} {}\n", "application/x-ndjson", 400, "line 1"),
        ('{} {}\n{"a":\n1}', "application/x-ndjson", 400, "line 1"),
        ('{"a":\n1} {}', "application/x-ndjson", 400, "line 1"),
        ("[{},[]]", "application/json", 422, "event 2"),
        ('[{},{"x":"\\u0000"}]', "application/json", 422, "event 2"),
        ('{"\\u0000":1}', "application/json", 422, "u0000"),
        ('{"x":"\\ud800"}', "application/json", 400, "not JSON"),
        ('{"x":NaN}', "application/json", 400, "not JSON"),
        ('{"x":1e400}', "application/json", 422, "range"),
        ('{"x":' + "1" * 5_000 + "}", "application/json", 422, "range"),
        ('{"x":"\\u0000","x":1}', "application/json", 422, "u0000"),
        ('{"x":1e-20000}', "application/json", 422, "decimals"),
        ('{"x":1E-20000}', "application/json", 422, "decimals"),
        ('{"x":0e-20000}', "application/json", 422, "decimals"),
        ('{"x":0.' + "0" * 7_000 + "1e-9999}", "application/json", 422, "decimals"),
        ('{"x":0e99999999999999999999}', "application/json", 422, "decimals"),
        ('{"x":0E+' + "9" * 5_000 + "}", "application/json", 422, "decimals"),
        ('{"x":' + "[" * 300 + "]" * 300 + "}", "application/json", 422, "deeper than 200"),
        ('{"x":' + "[" * 300 + "]" * 300 + ',"x":1}', "application/json", 422, "deeper than 200"),
        ("[" * 100_000, "application/json", 422, "too deeply"),
        ('{"x":"' + "y" * MAX_BYTES + '"}', "application/json", 413, "the event"),
        ("{}", "text/plain", 415, "text/plain"),
        ("{}", "application/json; charset=latin-1", 415, "latin-1"),
        ("[{}]", "application/cloudevents+json", 422, "array"),
        ("{}", "application/cloudevents-batch+json", 422, "array"),
        ("{}", "application/cloudevents+json", 422, "specversion"),
        ("{}", "Application/CloudEvents+JSON", 422, "specversion"),
    ],
)
def test_invalid_input_is_refused_with_the_place(
    body: bytes | str, content_type: str, status: int, said: str
) -> None:
    problem = refusal(body, content_type)
    assert (problem.status, said in problem.detail) == (status, True), problem.detail


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, '"id" is empty'),
        ({"id": 7}, '"id" must be a string'),
        ({"id": "x" * 513}, "512 bytes"),
        ({"id": "é" * 257}, "512 bytes"),
        ({"id": "a\nb"}, "control character"),
        ({"source": "\x1b[2J"}, "control character"),
        ({"type": None}, '"type" must be a string'),
        ({"subject": 1}, '"subject"'),
        ({"time": "yesterday"}, '"time"'),
        ({"time": "10000-01-01T00:00:00Z"}, '"time"'),
        ({"time": "2026-01-01T00:00:00"}, '"time"'),
        ({"time": "2026-01-01T00:00:00+25:00"}, '"time"'),
        ({"time": "2026-02-30T00:00:00Z"}, '"time"'),
        ({"time": "0001-01-01T00:00:00+05:00"}, '"time"'),
        ({"time": 7}, '"time"'),
        ({"time": "2016-12-31T23:59:60.5Z"}, '"time"'),
        ({"time": "9999-12-31T23:59:60Z"}, '"time"'),
        ({"time": "9999-12-31T23:59:59.9999999Z"}, '"time"'),
        ({"data_base64": "?"}, "base64"),
        ({"data_base64": "YWJj="}, "base64"),
        ({"data_base64": "AAAA", "data": 1}, "exclude"),
        ({"Trace-Parent": "x"}, "Trace-Parent"),
        ({"ext": 2**31}, '"ext"'),
        ({"ext": 1.5}, '"ext"'),
        ({"ext": {}}, '"ext"'),
    ],
)
def test_invalid_attributes_are_named(attributes: dict[str, Any], said: str) -> None:
    problem = refusal(json.dumps([structured(), structured(**attributes)]))
    assert problem.status == 422
    assert problem.detail.startswith("event 2: ")
    assert said in problem.detail


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": "x" * 512},
        {"id": "   "},
        {"id": "\u2028"},
        {"id": "'; drop table events; --<b>"},
        {"time": "2016-12-31T23:59:60Z"},
        {"time": "2016-12-31T23:59:60.000Z"},
        {"time": "9999-12-31T23:59:59Z"},
        {"time": "2026-01-01t00:00:00.123456789+05:30"},
        {"time": None, "subject": None, "data": None},
        {"ext": True, "n": -(2**31), "traceparent": "00-ab"},
        {"data_base64": "AAEC"},
        {"data": "\\u0000 in words"},
        {"data": "1e-20000 " + "[" * 300 + "9" * 5_000 + '\\"'},
        {"data": [[]] * 300},
        {"data": 1e-300},
    ],
)
def test_unusual_but_valid_events_are_accepted(attributes: dict[str, Any]) -> None:
    assert json.loads(read(json.dumps(structured(**attributes))).events[0]) == structured(**attributes)


@pytest.mark.parametrize("member", ["id", "source", "type", "specversion", "subject", "time", "data_base64"])
def test_a_member_given_twice_with_a_wrong_type_is_refused(member: str) -> None:
    event = structured(subject="s", time="2026-01-01T00:00:00Z", data_base64="AAAA")
    problem = refusal(json.dumps(event).replace("{", f'{{"{member}":7,', 1))
    assert (problem.status, "twice" in problem.detail) == (422, True), problem.detail


def test_the_last_of_several_members_with_one_name_counts() -> None:
    body = '{"id":"first","specversion":"1.0","source":"/s","type":"t","\\u0069d":"last"}'
    publication = read(body)
    assert publication.identities == [("/s", "last")]
    (head,) = decode_heads(b"[" + publication.events[0] + b"]")
    assert head.id == "last"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
attributes_or_not = st.dictionaries(
    st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "data", "data_base64", "ext"]),
    st.just("1.0") | json_values,
)


@given(json_values | attributes_or_not | st.lists(attributes_or_not, max_size=3), st.booleans())
def test_any_json_is_accepted_unchanged_or_refused_with_a_status(value: object, ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    try:
        publication = read(body)
    except Problem as problem:
        assert problem.status in (400, 413, 422)
        assert problem.detail
        return
    given = value if isinstance(value, list) else [value]
    for event, original in zip(publication.events, given, strict=True):
        decoded = msgspec.json.decode(event)
        assert decoded == original or decoded["data"] == original


json_shreds = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ":", ",", " ", "\n", '"', '"a"', '"id"', '"specversion":"1.0"', "{}", "1", "1e-5", "\\"]
    ),
    max_size=14,
).map(lambda shreds: "".join(shreds).encode())


@given(st.binary(max_size=200) | json_shreds, st.sampled_from(["application/json", "application/x-ndjson"]))
@example(b'{} {}\n{"a":\n1}', "application/x-ndjson")
def test_any_bytes_are_refused_or_become_readable_events(body: bytes, content_type: str) -> None:
    try:
        publication = read(body, content_type)
    except Problem as problem:
        assert 400 <= problem.status < 500
        return
    heads = decode_heads(b"[" + b",".join(publication.events) + b"]")
    assert [(head.source, head.id) for head in heads] == publication.identities


texts = st.text(min_size=1, max_size=5) | st.sampled_from(["", "x" * 128, "x" * 129, "\x1f", "oncecast.accepted"])
times = st.sampled_from(
    [
        "2026-01-01T00:00:00Z",
        "2026-01-31T00:00:00.123Z",
        "2026-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "x",
    ]
)
nearly_usual = st.fixed_dictionaries(
    {
        "specversion": st.sampled_from(["1.0", "1.0", "1.0", "0.3"]),
        "id": texts,
        "source": texts | st.just("/oncecast/producer"),
        "type": texts,
    },
    optional={"data": json_values, "subject": texts | st.none(), "time": times, "dataschema": texts, "ext": texts},
)


@given(
    st.lists(nearly_usual, min_size=1, max_size=4),
    st.sampled_from(["application/json", "application/x-ndjson", "application/cloudevents-batch+json"]),
    st.booleans(),
)
def test_usual_events_that_are_checked_together_are_accepted_as_if_each_were_checked_alone(
    events: list[dict[str, Any]], content_type: str, ascii: bool
) -> None:
    each = [json.dumps(event, ensure_ascii=ascii).encode("utf-8", "surrogatepass") for event in events]
    body = b"\n".join(each) if "ndjson" in content_type else b"[" + b",".join(each) + b"]"

    def outcome() -> object:
        try:
            return read(body, content_type)
        except Problem as problem:
            return problem.status, problem.detail

    together = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "usual_identities", lambda _part: [])
        assert outcome() == together
