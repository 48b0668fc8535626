"""Ranges are inserted whole, with the rows that each event would get alone, or not at all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import waiting

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.attempts import FailedAttempt
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import ListenerStore
from oncecast.core.ranges import Range
from oncecast.core.transaction import OpenTransaction
from oncecast.stores.postgres import Database, PostgresEvents
from oncecast.stores.postgres.database import Limits
from oncecast.stores.postgres.store import COPIES_LEFT_OUT
from oncecast.stores.postgres.whole import copy_if_admitted, rows_to_copy, runs_of, runs_of_ranges
from tests.conformance.test_event_store import TIMES
from tests.support.arrivals import frame, track
from tests.support.event_stores import Server

LIMITS = Limits(lock_s=0.3, statement_s=5.0)


def whole(*raws: bytes, first: int = 1) -> Range:
    """An undecoded range."""
    text = [msgspec.Raw(raw) for raw in raws]
    last = first + len(raws) - 1
    return Range(track(), "e1", first, last, first, 1_700_000_000_123_456, text, len(raws), 0)


def event(id: str, **members: Any) -> bytes:
    return msgspec.json.encode({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": 1, **members})


async def insert_whole(store: ListenerStore | PostgresEvents, ranges: list[Range]) -> bool:
    prepared = store.prepare_whole(ranges)
    return prepared is not None and await store.insert_whole(prepared)


async def test_new_events_of_several_ranges_are_stored(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    assert await insert_whole(store, [whole(event("1"), event("2")), whole(event("3"), first=3)])
    assert await server.statuses() == dict.fromkeys("123", "stored")
    assert await server.attempts() == dict.fromkeys("123", 1)


async def test_nothing_is_stored_if_one_event_has_a_row(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    assert await store.insert(whole(event("2")).decoded()) == [Outcome.STORED]
    assert not await insert_whole(store, [whole(event("1"), event("2"), event("3"), first=11)])
    assert await server.statuses() == {"2": "stored"}


async def test_nothing_is_stored_if_an_identity_is_there_twice(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    assert not await insert_whole(store, [whole(event("1"), event("2")), whole(event("1"), first=3)])
    assert await server.statuses() == {}


async def test_nothing_is_stored_if_one_event_has_failed_before(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    failed = whole(event("2")).decoded()[0]
    failed.attempts = 1
    await store.count_failure(FailedAttempt("a:1", failed, "error", 60.0))
    assert not await insert_whole(store, [whole(event("1"), event("2"))])
    assert await server.statuses() == {}


async def test_nothing_is_stored_by_a_replaced_application(server: Server) -> None:
    older, _ = await server.of("a" * 16)
    newer, _ = await server.of("b" * 16)
    await older.register_handlers(frozenset({"t"}), force=False)
    await newer.register_handlers(frozenset({"t", "u"}), force=False)
    assert not await insert_whole(older, [whole(event("1"), event("2"))])
    assert await insert_whole(newer, [whole(event("1"), event("2"))])


async def test_an_event_that_another_session_inserts_is_not_waited_for_long(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    other, _ = await server.of("b" * 16)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def hold(_tx: OpenTransaction) -> None:
        begun.set()
        await may_end.wait()

    held = whole(event("2")).decoded()[0]
    held.attempts = 1
    holding = asyncio.create_task(other.process(held, hold))
    await begun.wait()
    assert not await insert_whole(store, [whole(event("1"), event("2"), first=11)])
    may_end.set()
    assert await holding is Outcome.STORED
    assert await server.statuses() == {"2": "stored"}


async def test_events_that_cannot_be_decoded_are_not_stored(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    assert not await insert_whole(store, [whole(event("1"), b'{"id": 1}')])
    assert await server.statuses() == {}


@pytest.fixture
async def store(postgres_url: str, schema: str) -> AsyncIterator[PostgresEvents]:
    database = Database(
        postgres_url, SYSTEM_CLOCK, schema=schema, instance="listener-a", token="a" * 16, limits=LIMITS
    )
    await database.open()
    await database.migrate()
    yield PostgresEvents(database)
    await database.close()


TEXTS = st.text(min_size=1, max_size=20) | st.sampled_from(["\x1f", "\x1e", "\x1d", "\\N", "\\.", "a\\", "\r\n"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "source": TEXTS, "type": TEXTS},
    optional={
        "data": JSON,
        "subject": TEXTS | st.none(),
        "time": st.sampled_from(TIMES),
        "datacontenttype": TEXTS,
        "dataschema": TEXTS,
        "anextension": TEXTS,
        "data_base64": st.just("AP8="),
    },
)
LAYOUTS = st.sampled_from([(None, None), (1, None), ("\t", None), (2, (",\r", ":\n"))])
"""Indentation and separators."""


async def insert_alone(store: PostgresEvents, raw: bytes) -> None:
    (arrival,) = whole(raw).decoded()
    arrival.attempts = 1
    assert await store.insert([arrival]) == [Outcome.STORED]


async def differences(sql: psycopg.AsyncConnection[Any]) -> Any:
    """The number of different rows, ids and times apart, of all rows, and of different texts of the data."""
    cursor = await sql.execute(
        "select count(distinct to_jsonb(e) - 'id' - 'stored_at'), count(*),"
        " count(distinct coalesce(data::text, '')) from events e"
    )
    return await cursor.fetchone()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=EVENTS, layout=LAYOUTS, is_ascii=st.booleans())
async def test_the_row_is_that_of_an_insert(
    store: PostgresEvents,
    sql: psycopg.AsyncConnection[Any],
    members: dict[str, Any],
    layout: tuple[Any, Any],
    is_ascii: bool,
) -> None:
    def raw(id: str) -> bytes:
        indent, separators = layout
        text = json.dumps({"id": id, **members}, indent=indent, separators=separators, ensure_ascii=is_ascii)
        return text.encode("utf-8", "surrogatepass")

    await sql.execute("truncate events cascade")
    store._copies_left_out = 0
    if not await insert_whole(store, [whole(raw("copied"))]):
        return
    await insert_alone(store, raw("inserted"))
    assert await differences(sql) == (1, 2, 1)


USUAL = [
    {},
    {"data": None},
    {"data": {"a": '\\ \n " ü', "b": [1.50, True]}},
    *({"time": time, "subject": "x", "dataschema": "https://s", "datacontenttype": "text/plain"} for time in TIMES),
]


@pytest.mark.parametrize("members", USUAL)
async def test_an_event_of_the_usual_form_is_copied_and_has_the_row_of_an_insert(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], members: dict[str, Any]
) -> None:
    assert await insert_whole(store, [whole(event("copied", **members))])
    await insert_alone(store, event("inserted", **members))
    assert await differences(sql) == (1, 2, 1)


@pytest.mark.parametrize(
    ("members", "is_usual"),
    [
        ({}, True),
        ({"data": {"a": '\\ \n " ü'}}, True),
        ({"time": "2026-01-02T03:04:05.12Z", "subject": "x", "dataschema": "https://s"}, True),
        ({"traceparent": "00-ab"}, False),
        ({"data_base64": "AP8="}, False),
        ({"subject": "\x1f"}, False),
    ],
)
def test_which_events_have_the_usual_form(members: dict[str, Any], is_usual: bool) -> None:
    assert (rows_to_copy(runs_of_ranges([whole(event("1", **members))]), "listener-a") is not None) is is_usual


def test_frames_of_the_publisher_have_the_usual_form() -> None:
    text = frame(1, "a", "b")
    raws = msgspec.json.decode(text, type=dict[str, msgspec.Raw])["events"]
    events = map(bytes, msgspec.json.decode(raws, type=list[msgspec.Raw]))
    assert rows_to_copy(runs_of_ranges([whole(*events)]), "listener-a") is not None


def test_rows_are_in_the_order_of_their_identities() -> None:
    ranges = [whole(event("b"), event("a")), whole(event("0", source="/r"), first=3)]
    found = rows_to_copy(runs_of_ranges(ranges), "listener-a")
    assert found is not None
    assert found.kinds == {("t", "/s"): 2, ("t", "/r"): 1}
    assert [row.split(b"\x1f")[:2] for row in found.rows.splitlines()] == [
        [b"/r", b"0"],
        [b"/s", b"a"],
        [b"/s", b"b"],
    ]


def test_arrivals_of_one_batch_of_the_journal_are_one_run() -> None:
    first, later = whole(event("1"), event("2"), event("3")), whole(event("4"), first=4)
    later.at_us += 1
    arrivals = [*first.decoded(), *later.decoded()]
    assert runs_of(arrivals) == runs_of_ranges([first, later])
    assert [run.first for run in runs_of([arrivals[0], *arrivals[2:]])] == [1, 3, 4]


async def test_a_large_batch_with_handlers_runs_them_for_its_new_events(server: Server) -> None:
    store, _ = await server.of("a" * 16)
    given: list[list[str]] = []

    async def work(_tx: OpenTransaction, new: Sequence[Arrival]) -> None:
        given.append([arrival.id for arrival in new])

    def batch(first: int, ids: range) -> list[Arrival]:
        return whole(*(event(f"{n:03d}") for n in ids), first=first).decoded()

    assert await store.process_together(batch(1, range(50)), work) == [Outcome.STORED] * 50
    outcomes = await store.process_together(batch(51, range(49, 100)), work)
    assert outcomes == [Outcome.DUPLICATE] + [Outcome.STORED] * 50
    assert given == [[f"{n:03d}" for n in range(50)], [f"{n:03d}" for n in range(50, 100)]]
    assert len(await server.statuses()) == 100


FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
BY_POOLER = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@contextmanager
def server_that_answers(*answers: bytes) -> Iterator[int]:
    """A server that admits a COPY, and then sends `answers`; yields its port."""
    admits = message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIhih", 0, 0, 16, 1, -1, 0))
    admits += message(b"D", struct.pack("!Hi", 1, 1) + b"t") + message(b"C", b"SELECT 1\0")
    admits += message(b"G", struct.pack("!bH", 0, 0))
    hello = message(b"R", struct.pack("!I", 0)) + message(b"S", b"client_encoding\0UTF8\0") + message(b"Z", b"I")

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            for answer in (hello, admits, b"".join(answers)):
                connection.recv(65_536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:
        served = thread.submit(serve)
        yield listening.getsockname()[1]
        served.result(timeout=5.0)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([message(b"C", b"COPY 1\0"), message(b"Z", b"I")], 1),
        ([message(b"C", b"COPY 0\0"), message(b"Z", b"I")], 0),
        ([message(b"C", b"COPY 1\0"), message(b"E", FATAL)], 1),
        ([message(b"E", FATAL)], psycopg.errors.AdminShutdown),
        ([message(b"E", FATAL), message(b"E", BY_POOLER)], psycopg.errors.AdminShutdown),
    ],
)
def test_a_server_that_stops_or_a_pooler_may_add_a_message(answers: list[bytes], outcome: Any) -> None:
    with server_that_answers(*answers) as port:
        url = f"host=127.0.0.1 port={port} user=a dbname=a sslmode=disable gssencmode=disable"
        with psycopg.connect(url) as connection:
            copying = copy_if_admitted(connection.pgconn, b"select; copy", b"x\n")
            if isinstance(outcome, int):
                assert waiting.wait_selector(copying, connection.pgconn.socket) == outcome
                connection.close()
                return
            with pytest.raises(outcome):
                waiting.wait_selector(copying, connection.pgconn.socket)
            connection.close()


async def test_rows_that_a_trigger_skips_are_not_taken_for_stored(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    await sql.execute("create function skip() returns trigger language plpgsql as 'begin return null; end'")
    await sql.execute(
        "create trigger skip before insert on events for each row when (new.id = '2') execute function skip()"
    )
    assert not await insert_whole(store, [whole(event("1"), event("2"))])


async def test_a_table_with_row_level_security_gets_its_rows_by_insert(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    await sql.execute("alter table events enable row level security")
    await sql.execute("alter table events force row level security")
    await sql.execute("create policy everything on events using (true)")
    role = f"{schema}_reader"
    await sql.execute(f"create role {role}")
    await sql.execute(f"grant usage on schema {schema} to {role}")
    await sql.execute(f"grant all on all tables in schema {schema} to {role}")
    async with store._db.connection("insert") as connection:
        await connection.execute(f"set role {role}")
        found = rows_to_copy(runs_of_ranges([whole(event("1"))]), "listener-a")
        assert found is not None
        assert not await store._copy(connection, found.rows, 1)
        await connection.execute("reset role")
    await sql.execute(f"drop owned by {role}")
    await sql.execute(f"drop role {role}")


async def test_after_a_refusal_the_next_ranges_are_left_to_insert(store: PostgresEvents) -> None:
    assert await insert_whole(store, [whole(event("1"))])
    assert not await insert_whole(store, [whole(event("1"), first=2)])
    assert [store.prepare_whole([whole(event("2"))]) for _ in range(COPIES_LEFT_OUT)] == [None] * COPIES_LEFT_OUT
    assert await insert_whole(store, [whole(event("2"), first=3)])


async def test_large_ranges_are_sent_in_pieces(store: PostgresEvents, sql: psycopg.AsyncConnection[Any]) -> None:
    assert await insert_whole(store, [whole(*(event(str(n), data="x" * 100_000) for n in range(20)))])
    cursor = await sql.execute("select count(*), sum(length(data::text)) from events")
    assert await cursor.fetchone() == (20, 20 * 100_002)


def test_identities_that_no_producer_accepts_are_left_to_insert() -> None:
    assert rows_to_copy(runs_of_ranges([whole(event("x" * 600))]), "listener-a") is None
