"""What ingest accepts, PostgreSQL stores: an acknowledged event never ends dead for what it holds."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from base64 import b64decode, b64encode
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.dead_letters import Identity
from oncecast.core.event import Cursor
from oncecast.core.outcomes import Outcome
from oncecast.core.replays import dead_letter_to_replay
from oncecast.core.transaction import OpenTransaction
from oncecast.event import Event, new_id
from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.bare import JSON, Bare
from oncecast.producer.cloudevents.binary import to_structured
from oncecast.producer.cloudevents.parse import BATCHED, NDJSON, STRUCTURED, Publication, read_publication
from oncecast.stores.postgres import Database, EventReader, PostgresEvents

NUMBERS = (
    *(
        "0e99999",
        "0e999999",
        "0e99999999999999999999",
        "0E+99999999999999999999",
        "-0.0e5",
        "1e308",
        "1e309",
        "1e-400",
    ),
    *("1e-16383", "1e-16384", "1E-16384", "0e-16384", "1.5e-16382", "1.5e-16383", "1e-9999999999999999999999", "-0"),
    *("0." + "0" * zeros + f"1e-{exponent}" for zeros in (15_382, 15_383, 15_990) for exponent in (0, 999, 1_000)),
    *("9" * digits for digits in (19, 20, 300, 310, 4_000)),
)
TIMES = (
    *("2016-12-31T23:59:60Z", "2016-12-31T23:59:60.0Z", "2016-12-31T23:59:60.5Z", "2016-12-31T12:30:60+01:00"),
    *("9999-12-31T23:59:59Z", "9999-12-31T23:59:60Z", "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-15:59"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+15:59", "0001-01-01T00:00:00-15:59", "0000-01-01T00:00:00Z"),
    *(
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01t00:00:00.123456789012z",
        "2026-01-01T00:00:00-00:00",
    ),
    *("2026-01-01T00:00:00+16:00", "2026-01-01T00:00:00+15:59", "2026-01-01T00:00:00.5+05:30", "2026-01-01T00:00Z"),
)
DATA = (
    *('"\\u0000"', '"\\\\u0000"', '"\\\\\\u0000"', '{"x":"\\u0000","x":1}', '{"\\u0000":1}', '"\\ud83d\\ude00"'),
    *('"\\ud83d"', '"\\uffff\\ufffe"', "[" * 199 + "]" * 199, '{"x":' * 199 + "1" + "}" * 199),
    *NUMBERS,
)
BASE64 = (
    *("YWJj=", "YWJj==", "YWJj====", "YQ==", "YR==", "YQ=", "YQ", "YQ===", "YQ==YQ==", "=", "====", ""),
    *(
        "YW Jj",
        "YWJj\n",
        "YWJj\r\n",
        "Y\nWJj",
        " YWJj",
        "-_-_",
        "YQ\u0000=",
        "é===",
        "YWJj" * 5_000,
        "YWJj" * 5_000 + "=",
    ),
)


def accepts(event: str) -> bool:
    try:
        read_publication(event.encode(), "application/json", Bare(), event_max_bytes=100_000)
    except Problem:
        return False
    return True


def stores(connection: psycopg.Connection[Any], query: str, value: str) -> bool:
    try:
        connection.execute(query, (value,)).fetchone()
    except psycopg.Error:
        return False
    return True


@pytest.fixture(scope="module")
def connection(postgres_url: str) -> Any:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("data", DATA, ids=lambda data: f"{data[:12]}…{data[-12:]}" if len(data) > 30 else data)
def test_accepted_data_is_taken_by_jsonb(connection: psycopg.Connection[Any], data: str) -> None:
    event = f'{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}'
    assert not accepts(event) or stores(connection, "select %s::jsonb", data)


@pytest.mark.parametrize("time", TIMES)
def test_an_accepted_time_is_taken_by_timestamptz_and_can_be_read_back(
    connection: psycopg.Connection[Any], time: str
) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": time}
    assert not accepts(json.dumps(event)) or stores(connection, "select %s::timestamptz", time)


@pytest.mark.parametrize("base64", BASE64, ids=lambda text: repr(text[:12]))
def test_accepted_base64_is_taken_by_decode_and_all_of_rfc_4648_is_accepted(
    connection: psycopg.Connection[Any], base64: str
) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data_base64": base64}
    if accepts(json.dumps(event)):
        assert stores(connection, "select decode(%s, 'base64')", base64)
    else:
        assert base64 != b64encode(b64decode(base64.encode("ascii", "ignore") + b"===")).decode()


def test_what_is_at_the_edge_is_accepted() -> None:
    event = '{"specversion":"1.0","id":"1","source":"/s","type":"t","data":%s}'
    assert all(accepts(event % data) for data in ("1e-16383", "0." + "0" * 15_382 + "1e-999", "0e99999", "9" * 300))


def exactly(text: bytes) -> dict[str, Any]:
    """JSON with the numbers that are written there, not those that binary floats can hold."""
    return dict(json.loads(text, parse_float=Decimal, parse_int=Decimal))


class Table:
    """Stores what was accepted, and reads it back."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        self._runner = runner
        self._store = PostgresEvents(database)
        self._reader = EventReader(database)
        self._offsets = itertools.count(1)

    async def _handle(self, _tx: OpenTransaction) -> None:
        """A handler that only looks."""

    def store(self, raw: bytes, source: str, id: str) -> dict[str, Any] | None:
        """The event as it is read back, None if its identity was there before; raises what the database refuses.

        Every second one goes in as the event of a handler, by the other insert.
        """
        offset = next(self._offsets)
        arrival = dead_letter_to_replay(
            Identity(source, id),
            raw,
            None,
            type=json.loads(raw)["type"],
            attempts=0,
            place=Cursor("e", offset),
            journal="j",
            at_us=offset,
        )
        if offset % 2:
            [outcome] = self._runner.run(self._store.insert([arrival]))
        else:
            outcome = self._runner.run(self._store.process(arrival, self._handle))
        [row] = self._runner.run(self._reader.newest(limit=2, source=source, id=id))
        return exactly(msgspec.json.encode(row["event"])) if outcome is Outcome.STORED else None


@pytest.fixture(scope="module")
def table(postgres_url: str) -> Any:
    database = Database(postgres_url, SYSTEM_CLOCK, schema="t_storable", instance="a", token="a" * 16)
    with asyncio.Runner() as runner:
        runner.run(database.open())
        runner.run(database.migrate())
        yield Table(runner, database)
        runner.run(database.close())


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
LONG_TEXT = st.sampled_from(("x", "é", "\U0001f30d", " ", "\u2028")).flatmap(
    lambda char: st.sampled_from((127, 128, 129, 256, 257, 511, 512, 513)).map(lambda n: char * n)
)
NAMES = ANY_TEXT | LONG_TEXT
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
CLOUD_EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": NAMES, "source": NAMES, "type": NAMES},
    optional={
        "subject": NAMES | st.none(),
        "time": st.sampled_from(TIMES) | st.datetimes().map(lambda at: at.isoformat() + "Z") | ANY_TEXT,
        "datacontenttype": NAMES,
        "dataschema": NAMES,
        "data": ANY_JSON,
        "data_base64": st.binary(max_size=20).map(lambda data: b64encode(data).decode())
        | ANY_TEXT
        | st.sampled_from(BASE64),
        "extension": NAMES | st.integers() | st.booleans() | st.none() | ANY_JSON,
        "x" * 64: NAMES | st.integers(-(2**70), 2**70),
        "x" * 65: ANY_TEXT,
        "Mixed-Case": ANY_TEXT,
    },
)


MODES = ("structured", "batch", "array", "lines", "object")
HEADERS = (
    b"ce-time",
    b"ce-subject",
    b"ce-dataschema",
    b"ce-id",
    b"ce-source",
    b"ce-type",
    b"ce-ext",
    b"ce-Bad",
    b"ce-x-y",
)
HEADER_VALUES = (
    st.sampled_from(TIMES).map(str.encode)
    | ANY_TEXT.map(lambda text: text.encode())
    | ANY_TEXT.map(lambda text: quote(text).encode())
    | st.sampled_from((b"%00", b"%ff", b"%ED%A0%80", b'"a%0Ab"', b"x" * 513, b"", b"\xff", b"-0", b"99999999999"))
)


def published(body: bytes, mode: str) -> Publication:
    """As a request of that content mode would be read; a WebSocket's frame is read as an object or array."""
    content_type, content = {
        "structured": (STRUCTURED, body),
        "batch": (BATCHED, b"[" + body + b"]"),
        "array": (JSON, b"[" + body + b"]"),
        "lines": (NDJSON[0], body + b"\n"),
        "object": (JSON, body),
    }[mode]
    return read_publication(content, content_type, Bare(), event_max_bytes=100_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(CLOUD_EVENTS, st.booleans(), st.sampled_from(MODES))
def test_any_cloud_event_is_refused_with_a_place_or_stored_and_read_back(
    table: Table, event: dict[str, Any], ascii: bool, mode: str
) -> None:
    body = json.dumps(event, ensure_ascii=ascii, allow_nan=False).encode("utf-8", "surrogatepass")
    try:
        publication = published(body, mode)
    except Problem as problem:
        assert problem.status in (400, 422)
        assert any(place in problem.detail for place in ("the event", "event 1", "line 1", "the body"))
        return
    [(source, id_)] = publication.identities
    found = table.store(publication.events[0], source, id_)
    for name in ("id", "source", "type", "specversion"):
        assert found is None or found[name] == event[name]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.sampled_from(HEADERS), HEADER_VALUES),
    st.sampled_from(("application/json", "text/plain", "application/x+json", "", "\xe9", "x" * 600)),
    st.binary(max_size=30)
    | ANY_JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(DATA).map(str.encode),
)
def test_any_event_in_binary_mode_is_refused_with_a_place_or_stored(
    table: Table, headers: dict[bytes, bytes], content_type: str, body: bytes
) -> None:
    given_headers = {b"ce-specversion": b"1.0", b"ce-source": b"/s", b"ce-type": b"t", b"ce-id": new_id().encode()}
    try:
        structured = to_structured(body, content_type, (given_headers | headers).items())
        publication = read_publication(structured, STRUCTURED, Bare(), event_max_bytes=100_000)
    except Problem as problem:
        assert problem.status in (400, 413, 422)
        assert any(place in problem.detail for place in ("the event", "the body", "header", "the data"))
        return
    [(source, id_)] = publication.identities
    table.store(publication.events[0], source, id_)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY_JSON | st.binary(max_size=20), NAMES, NAMES | st.none(), NAMES | st.integers() | st.booleans())
def test_any_event_that_a_publisher_or_a_handler_makes_is_refused_or_stored(
    table: Table, data: Any, type_: str, subject: str | None, extension: Any
) -> None:
    event = Event.new(type_, data, subject=subject, extensions={"extension": extension})
    try:
        publication = read_publication(b"[" + event.to_json() + b"]", JSON, Bare(), event_max_bytes=100_000)
    except Problem as problem:
        assert (problem.status, "event 1" in problem.detail or "the body" in problem.detail) == (422, True)
        return
    assert table.store(publication.events[0], event.source, event.id) is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY_JSON)
def test_any_json_is_refused_with_a_place_or_stored_with_its_value(table: Table, value: Any) -> None:
    body = json.dumps({"id": f"{uuid.uuid4()}", "value": value}).encode()
    try:
        publication = read_publication(body, "application/json", Bare(), event_max_bytes=100_000)
    except Problem as problem:
        assert (problem.status, "the event" in problem.detail or "the body" in problem.detail) in (
            (400, True),
            (422, True),
        )
        return
    [(source, id_)] = publication.identities
    found = table.store(publication.events[0], source, id_)
    assert found is not None
    assert found["data"] == exactly(body)
