"""What every store of dead letters must do for operators: list, group by cause, edit, discard, replay once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oncecast.app.application import App
from oncecast.core.causes import cause_of, error_pattern
from oncecast.core.dead_letter_ports import Causes, DeadLetters
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.errors import DataRefused, Reject, RowLocked, Unstorable
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import EventStore
from oncecast.core.transaction import Transaction
from oncecast.event import Event
from oncecast.stores import postgres
from oncecast.stores.postgres import Database, EventReader, PostgresDeadLetters, PostgresEvents
from oncecast.stores.postgres.queries import in_schema
from tests.conformance.test_event_store import database_of, effect, limits, sql, store, values
from tests.support.event_stores import Server
from tests.support.places import arrival
from tests.unit.core.test_tracebacks import raised_by

__all__ = ["database_of", "limits", "sql", "store"]


@pytest.fixture
async def dead_letters(
    store: PostgresEvents, database_of: Callable[..., Database]
) -> AsyncIterator[PostgresDeadLetters]:
    database = database_of("listener-b")
    await database.open()
    yield PostgresDeadLetters(database)
    await database.close()


@pytest.fixture
async def both(server: Server) -> tuple[EventStore, DeadLetters]:
    """A store of events and its dead letters, of either kind."""
    return await server.of("listener-a")


async def nothing(_arrival: Arrival, _tx: Transaction) -> None:
    return


async def all_of(dead_letters: DeadLetters, **wanted: Any) -> list[str]:
    """The ids of a selection, newest first."""
    return [row["id"] for row in await dead_letters.newest(Selection(**wanted), limit=100)]


async def dead_letter(store: EventStore, errors: Sequence[BaseException | str], **attributes: Any) -> list[Identity]:
    """Have an event die of each, in order."""
    for number, error in enumerate(errors, 1):
        cause = Reject(error) if isinstance(error, str) else error
        assert (await store.dead_letter(arrival(number, **attributes), cause)).outcome is Outcome.STORED
    return [Identity(attributes.get("source", "/oncecast"), f"id-{n}") for n in range(1, len(errors) + 1)]


async def test_dead_letters_are_listed_newest_first_in_pages(both: tuple[EventStore, DeadLetters]) -> None:
    store, dead_letters = both
    await dead_letter(store, ["no"] * 3)
    await store.insert([arrival(4)])
    assert await all_of(dead_letters) == ["id-3", "id-2", "id-1"]
    first = await dead_letters.newest(Selection(), limit=2)
    behind = await dead_letters.newest(Selection(), limit=2, after=first[-1]["mark"])
    assert [row["id"] for row in behind] == ["id-1"]
    with pytest.raises(ValueError, match="mark"):
        await dead_letters.newest(Selection(), limit=1, after="x")


async def test_a_selection_has_what_all_its_parts_ask_for(both: tuple[EventStore, DeadLetters]) -> None:
    store, dead_letters = both
    for n, type_ in ((1, "order.new"), (2, "order.paid"), (3, "orders"), (4, "order.a%b")):
        dead = arrival(n, source=f"/s{n}")
        dead.type = type_
        dead.raw = msgspec.Raw(Event.new(type_, id=dead.id, source=dead.source).to_json())
        await store.dead_letter(dead, Reject(f"out of 100% stock {n}"))
    found = await dead_letters.newest(Selection(), limit=10)
    died_at = {row["id"]: row["died_at"] for row in found}
    causes = {row["cause"] for row in found}
    assert len(causes) == 1
    for wanted, ids in (
        ({"type": "order.new"}, [1]),
        ({"type": "order.*"}, [4, 2, 1]),
        ({"type": "order.a%*"}, [4]),
        ({"type": "order"}, []),
        ({"type": "*"}, [4, 3, 2, 1]),
        ({"source": "/s3"}, [3]),
        ({"source": "/s3", "type": "order.*"}, []),
        ({"error": "100% STOCK 2"}, [2]),
        ({"error": "100_ stock"}, []),
        ({"ids": ("id-1", "id-3", "id-9")}, [3, 1]),
        ({"ids": ("id-1", "id-3"), "type": "orders"}, [3]),
        ({"listener": "listener-a"}, [4, 3, 2, 1]),
        ({"listener": "listener-b"}, []),
        ({"since": died_at["id-2"]}, [4, 3, 2]),
        ({"until": died_at["id-2"]}, [1]),
        ({"since": died_at["id-2"], "until": died_at["id-4"]}, [3, 2]),
        ({"cause": causes.pop()}, [4, 3, 2, 1]),
        ({"cause": "0123456789"}, []),
        ({"discarded": True}, []),
        ({"discarded": None, "type": "orders"}, [3]),
    ):
        assert await all_of(dead_letters, **wanted) == [f"id-{n}" for n in ids], wanted


async def test_one_cause_has_the_errors_that_differ_in_numbers_and_ids_alone(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    alike = (
        ("no article o-17", "no article evt_0198c0de-7c5a-7b3e-a1b2-c3d4e5f60718", "no article 9f86d081884c7d65"),
        ("at 2026-01-31T12:00:00.5Z it took 1.5 s", "at 2027-12-01T01:02:03Z it took 17 s"),
        ("Key (id)=(a) is there:\n  'x'='b c', y=\"17\"", "Key (id)=(b and 7) is there: 'x'='', y=\"z\""),
        ("'sku'",),
        ("'price'",),
    )
    await dead_letter(store, [text for texts in alike for text in texts])
    found = await dead_letters.causes(Selection(), limit=10)
    assert (found.dead_letters, len(found.causes), found.left_out) == (9, 5, 0)
    assert [(cause.error, cause.dead_letters, cause.types, cause.example.id) for cause in found.causes] == [
        ("Reject: no article #", 3, ["tick"], "id-3"),
        ("Reject: Key (id)=# is there: 'x'=#, y=#", 2, ["tick"], "id-7"),
        ("Reject: at # it took # s", 2, ["tick"], "id-5"),
        ("Reject: 'price'", 1, ["tick"], "id-9"),
        ("Reject: 'sku'", 1, ["tick"], "id-8"),
    ]
    largest = found.causes[0]
    assert await all_of(dead_letters, cause=largest.cause) == ["id-3", "id-2", "id-1"]
    newest = await dead_letters.newest(Selection(), limit=10)
    assert largest.newest_at == next(row["died_at"] for row in newest if row["id"] == "id-3")


async def test_causes_are_counted_within_a_selection_and_the_largest_returned(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    await dead_letter(store, ["a", "b", "b", "c", "c", "c"])
    found = await dead_letters.causes(Selection(), limit=2)
    assert (found.dead_letters, found.left_out) == (6, 1)
    assert [(cause.error, cause.dead_letters) for cause in found.causes] == [("Reject: c", 3), ("Reject: b", 2)]
    within = await dead_letters.causes(Selection(ids=("id-1", "id-2")), limit=9)
    assert [(cause.error, cause.dead_letters, cause.example.id) for cause in within.causes] == [
        ("Reject: b", 1, "id-2"),
        ("Reject: a", 1, "id-1"),
    ]
    assert await dead_letters.causes(Selection(type="none"), limit=9) == Causes(0, [], 0)


async def test_one_dead_letter_comes_with_its_cause_and_the_event_as_it_was_received(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    dead = arrival(1, data={"n": 1.50})
    await store.dead_letter(dead, Reject("out of stock"))
    chosen = await dead_letters.get(dead.source, dead.id)
    assert chosen is not None
    assert (bytes(chosen["event"]), chosen["error"], chosen["edited"], chosen["discarded_at"]) == (
        bytes(dead.raw),
        "Reject: out of stock",
        False,
        None,
    )
    assert "Reject" in chosen["trace"]
    assert await dead_letters.get("/other", dead.id) is None


@pytest.mark.parametrize("is_replay", [False, True])
async def test_the_trace_of_a_dead_letter_begins_at_the_first_frame_of_the_handler(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, is_replay: bool
) -> None:
    app = App()

    @app.on("order")
    async def reserve() -> None:
        raise ValueError("out of stock")

    error = await raised_by(app)
    (dead,) = await dead_letter(store, ["no" if is_replay else error])
    if is_replay:
        await dead_letters.note_failure(dead.source, dead.id, error)
    chosen = await dead_letters.get(dead.source, dead.id)
    assert chosen is not None
    lines = chosen["trace"].splitlines()
    assert lines[0].startswith(f'  File "{__file__}", line ')
    assert [line for line in lines if line.startswith("  File ")] == lines[:1]
    assert lines[-1] == "ValueError: out of stock"


async def test_pages_of_whole_dead_letters_end_early_when_they_become_large(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    await dead_letter(store, ["no"] * 3, data="x" * 1000)
    await dead_letters.edit("/oncecast", "id-2", b'{"n": 1}')
    whole, has_more = await dead_letters.read(Selection(), limit=100, max_bytes=10_000_000)
    assert ([row["id"] for row in whole], has_more) == (["id-3", "id-2", "id-1"], False)
    assert [dict(row, mark=None) for row in whole] == [
        {**(await dead_letters.get(row["source"], row["id"]) or {}), "mark": None} for row in whole
    ]
    ids, mark = [], None
    for _ in range(3):
        page, has_more = await dead_letters.read(Selection(), limit=100, after=mark, max_bytes=1)
        ids += [row["id"] for row in page]
        mark = page[-1]["mark"]
        assert has_more is (len(ids) < 3)
    assert ids == ["id-3", "id-2", "id-1"]
    assert await dead_letters.read(Selection(), limit=100, after=mark, max_bytes=1) == ([], False)
    page, has_more = await dead_letters.read(Selection(), limit=1, max_bytes=10_000_000)
    assert (len(page), has_more) == (1, True)


async def test_a_discarded_dead_letter_is_neither_listed_nor_edited_nor_replayed_until_it_is_restored(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    one, two, three = await dead_letter(store, ["no"] * 3)
    assert await dead_letters.discard([one, two, Identity("/other", "id-1")]) == {one, two}
    assert await dead_letters.discard([one]) == set()
    assert await all_of(dead_letters) == ["id-3"]
    assert await all_of(dead_letters, discarded=True) == ["id-2", "id-1"]
    assert (await dead_letters.causes(Selection(), limit=9)).dead_letters == 1
    assert (await dead_letters.causes(Selection(discarded=True), limit=9)).dead_letters == 2
    assert await dead_letters.replay(*one, nothing) is False
    assert await dead_letters.edit(*one, b"1") is False
    assert await dead_letters.reset([one]) == set()
    shown = await dead_letters.get(*one)
    assert shown is not None
    assert shown["discarded_at"] is not None
    assert await dead_letters.restore([one, three]) == {one}
    assert await all_of(dead_letters) == ["id-3", "id-1"]
    assert await dead_letters.replay(*one, nothing) is True
    assert await dead_letters.discard([one]) == set()
    assert await dead_letters.restore([one]) == set()


async def test_a_dead_letter_that_is_being_replayed_is_not_discarded(both: tuple[EventStore, DeadLetters]) -> None:
    store, dead_letters = both
    one, two = await dead_letter(store, ["no"] * 2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def be_slow(_arrival: Arrival, _tx: Transaction) -> None:
        begun.set()
        await go_on.wait()

    replaying = asyncio.create_task(dead_letters.replay(*one, be_slow))
    await begun.wait()
    assert await dead_letters.discard([one, two]) == {two}
    go_on.set()
    assert await replaying is True
    assert await all_of(dead_letters, discarded=None) == ["id-2"]


async def test_a_dead_letter_can_be_changed_while_its_line_is_being_logged(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, postgres_url: str, schema: str
) -> None:
    one, two = await dead_letter(store, ["no"] * 2)
    for change in (dead_letters.discard, dead_letters.restore, dead_letters.reset):
        async with await psycopg.AsyncConnection.connect(postgres_url) as filing:
            await filing.execute(f"update \"{schema}\".dead_letters set logged_at = now() where id = 'id-1'")
            changing = asyncio.create_task(change([two, one]))
            while not await _waits_for(filing):
                assert not changing.done()
        assert await changing == {one, two}


async def _waits_for(session: psycopg.AsyncConnection[Any]) -> bool:
    """Whether another session waits for a lock of this one."""
    waiting = "select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid))"
    return await (await session.execute(waiting)).fetchone() is not None


async def test_a_failed_replay_changes_the_cause_of_a_dead_letter_but_not_its_place_in_the_list(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    await dead_letter(store, ["no"] * 3)
    before = await dead_letters.newest(Selection(), limit=9)
    await dead_letters.note_failure("/oncecast", "id-2", Reject("still not"))
    after = await dead_letters.newest(Selection(), limit=9)
    assert [(row["id"], row["mark"], row["died_at"]) for row in after] == [
        (row["id"], row["mark"], row["died_at"]) for row in before
    ]
    causes = await dead_letters.causes(Selection(), limit=9)
    assert [(cause.error, cause.dead_letters) for cause in causes.causes] == [
        ("Reject: no", 2),
        ("Reject: still not", 1),
    ]


async def test_resetting_an_edited_dead_letter_restores_the_event_as_received(
    both: tuple[EventStore, DeadLetters],
) -> None:
    store, dead_letters = both
    (one,) = await dead_letter(store, ["no"], data={"sku": "tae"})
    assert await dead_letters.edit(*one, b'{"sku": "tea"}') is True
    assert await dead_letters.reset([one]) == {one}
    chosen = await dead_letters.get(*one)
    assert chosen is not None
    assert (chosen["edited"], chosen["edited_data"]) == (False, None)
    seen = []

    async def look(given: Arrival, _tx: Transaction) -> None:
        seen.append(Event.from_json(given.raw).data)

    assert await dead_letters.replay(*one, look) is True
    assert seen == [{"sku": "tae"}]
    assert await dead_letters.reset([one]) == set()


async def test_dead_letters_from_before_they_had_causes_are_given_theirs(
    database_of: Callable[..., Database], postgres_url: str, schema: str
) -> None:
    folder = resources.files(postgres).joinpath("sql/migrations")
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:

        async def run(text: str) -> None:
            await connection.execute(in_schema(text, schema))

        await run("create schema {schema}")
        await run("create table {schema}.migrations (number integer primary key, name text not null)")
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if (number := int(file.name.partition("_")[0])) < 5:
                await run(file.read_text("utf-8"))
                await run(f"insert into {{schema}}.migrations values ({number}, '{file.name}')")
        await run("""insert into {schema}.events
            (source, id, type, status, journal, epoch, "offset", listener, attempts, accepted_at)
            values ('/s', 'a', 'order', 'dead', 'j', 'e', 1, 'l', 3, now())""")
        await run("""insert into {schema}.dead_letters (source, id, error, trace, attempts, raw, listener)
            values ('/s', 'a', 'KeyError: 17', '', 3, '{{}}', 'l')""")
    database = database_of()
    await database.open()
    await database.migrate()
    [row] = await PostgresDeadLetters(database).newest(Selection(type="order"), limit=9)
    assert (row["id"], row["cause"]) == ("a", cause_of("KeyError: #"))
    await database.close()


@given(text=st.text(st.sampled_from("aZ0189_-.:,=()'\"#é \n\t"), max_size=60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_stores_see_the_same_cause_in_an_error(text: str, patterns: Callable[[str], tuple[str, str]]) -> None:
    assert patterns(text) == (error_pattern(text), cause_of(text))


@pytest.fixture
async def patterns(database_of: Callable[..., Database], postgres_url: str, schema: str) -> Any:
    database = database_of()
    await database.migrate()
    with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={schema}") as connection:

        def ask(text: str) -> Any:
            return connection.execute("select error_pattern(%(text)s), cause_of(%(text)s)", {"text": text}).fetchone()

        yield ask


async def test_a_replay_stores_the_event_with_what_its_handler_writes_and_happens_once(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, sql: Any, schema: str
) -> None:
    dead = arrival(1)
    await store.dead_letter(dead, Reject("no"))

    async def work(given: Arrival, tx: Transaction) -> None:
        assert (given.id, given.attempts, given.cursor, bytes(given.raw)) == (
            dead.id,
            2,
            dead.cursor,
            bytes(dead.raw),
        )
        await effect(schema, given.id)(tx)

    replays = [dead_letters.replay(dead.source, dead.id, work) for _ in range(5)]
    assert sorted(await asyncio.gather(*replays)) == [False, False, False, False, True]
    assert await values(sql, "select status, attempts, listener from events") == [("stored", 2, "listener-b")]
    assert await values(sql, "select id from effects") == [dead.id]
    assert await all_of(dead_letters) == []
    assert await store.insert([dead]) == [Outcome.PRESENT]


async def test_a_replay_that_fails_leaves_the_event_dead_and_has_no_effect(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, sql: Any, schema: str
) -> None:
    dead = arrival(1)
    await store.dead_letter(dead, Reject("no"))

    async def fail(given: Arrival, tx: Transaction) -> None:
        await effect(schema, given.id)(tx)
        raise Reject("still not")

    with pytest.raises(Reject) as raised:
        await dead_letters.replay(dead.source, dead.id, fail)
    await dead_letters.note_failure(dead.source, dead.id, raised.value)
    assert await values(sql, "select status from events") == ["dead"]
    assert await values(sql, "select id from effects") == []
    assert await values(sql, "select error, attempts from dead_letters") == [("Reject: still not", 2)]


async def test_a_replay_during_another_slow_replay_of_the_same_event_is_refused(
    store: PostgresEvents, dead_letters: PostgresDeadLetters
) -> None:
    dead = arrival(1)
    await store.dead_letter(dead, Reject("no"))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def be_slow(_arrival: Arrival, _tx: Transaction) -> None:
        begun.set()
        await go_on.wait()

    first = asyncio.create_task(dead_letters.replay(dead.source, dead.id, be_slow))
    await begun.wait()
    with pytest.raises(RowLocked):
        await dead_letters.replay(dead.source, dead.id, nothing)
    go_on.set()
    assert await first is True


async def test_a_replay_handles_and_stores_the_edited_data_and_the_original_is_kept(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, sql: Any
) -> None:
    dead = arrival(1, data={"sku": "tae"}, subject="order")
    await store.dead_letter(dead, Reject("no such sku"))
    assert await dead_letters.edit(dead.source, dead.id, b'{"sku": "tea"}') is True
    chosen = await dead_letters.get(dead.source, dead.id)
    assert chosen is not None
    assert (bytes(chosen["event"]), chosen["edited"]) == (bytes(dead.raw), True)
    assert msgspec.json.decode(chosen["edited_data"]) == {"sku": "tea"}
    seen = []

    async def look(given: Arrival, _tx: Transaction) -> None:
        seen.append(msgspec.json.decode(given.raw))

    assert await dead_letters.replay(dead.source, dead.id, look) is True
    assert [(event["data"], event["subject"]) for event in seen] == [({"sku": "tea"}, "order")]
    assert await values(sql, "select data, subject from events") == [({"sku": "tea"}, "order")]
    assert await values(sql, "select raw from dead_letters") == [bytes(dead.raw)]


async def test_only_a_dead_letter_can_be_edited_and_only_with_storable_data(
    store: PostgresEvents, dead_letters: PostgresDeadLetters
) -> None:
    await store.insert([arrival(1)])
    assert await dead_letters.edit("/oncecast", "id-1", b"1") is False
    assert await dead_letters.replay("/oncecast", "id-1", nothing) is False
    dead = arrival(2)
    await store.dead_letter(dead, Reject("no"))
    for data, place in ((b'{"a":\n"\\u0000"}', "line 2"), (b"nonsense", "line 1"), (b"1e400000", "numeric")):
        with pytest.raises(DataRefused, match=place):
            await dead_letters.edit(dead.source, dead.id, data)


async def test_an_event_whose_payload_postgresql_refused_is_stored_whole_after_its_data_is_edited(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, database_of: Callable[..., Database]
) -> None:
    dead = arrival(1)
    text = (
        b'{"specversion":"1.0","id":"id-1","source":"/oncecast","type":"tick","subject":"s","data":"\\u0000","x":"y"}'
    )
    dead.raw = msgspec.Raw(text)
    await store.dead_letter(dead, DataRefused("no"))
    with pytest.raises(DataRefused):
        await dead_letters.replay(dead.source, dead.id, nothing)
    assert await dead_letters.edit(dead.source, dead.id, b'"edited"')
    assert await dead_letters.replay(dead.source, dead.id, nothing)
    database = database_of()
    await database.open()
    [row] = await EventReader(database).newest(limit=10)
    await database.close()
    event = msgspec.json.decode(msgspec.json.encode(row["event"]))
    assert (row["status"], event["data"], event["subject"], event["x"]) == ("stored", "edited", "s", "y")


async def test_an_event_that_cannot_be_read_is_stored_once_its_data_is_edited(
    store: PostgresEvents, dead_letters: PostgresDeadLetters, sql: Any
) -> None:
    dead = arrival(1)
    dead.raw = msgspec.Raw(
        b'{"specversion":"1.0","id":"id-1","source":"/oncecast","type":"tick","data_base64":"YWJj=","x":"y"}'
    )
    await store.dead_letter(dead, Unstorable("no"))
    with pytest.raises(DataRefused, match="base64"):
        await dead_letters.replay(dead.source, dead.id, nothing)
    assert await dead_letters.edit(dead.source, dead.id, b'"edited"')
    assert await dead_letters.replay(dead.source, dead.id, nothing)
    rows = await values(sql, "select status, data, data_bytes, extensions from events")
    assert rows == [("stored", "edited", None, {"x": "y"})]
