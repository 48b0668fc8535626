"""What every event store must do: end events exactly once, whatever is tried on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest

from oncecast.app.threads import ThreadTransaction
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import (
    AttemptFailed,
    Cost,
    DataRefused,
    RowLocked,
    TransactionClosed,
    TransactionConflict,
    Unavailable,
    classify,
)
from oncecast.core.event import Arrival, Cursor
from oncecast.core.outcomes import Outcome
from oncecast.core.transaction import RAISED_KEPT, Transaction
from oncecast.core.wire import AT_MAX_US, Epoch
from oncecast.event import Event
from oncecast.listener.http.app import page
from oncecast.stores.postgres import Database, EventReader, PostgresDeadLetters, PostgresEvents
from oncecast.stores.postgres.database import Limits
from oncecast.stores.postgres.transaction import HandlerTransaction, leaves_session_state
from tests.support.places import EPOCHS, JOURNAL, arrival, record
from tests.support.savepoints import beside_a_savepoint_that_is_rolled_back

LIMITS = Limits(lock_s=0.3, statement_s=5.0)


@pytest.fixture
def limits() -> Limits:
    """Those of `store`; a test may have others."""
    return LIMITS


@pytest.fixture
def database_of(postgres_url: str, schema: str, limits: Limits) -> Callable[..., Database]:
    def make(instance: str = "listener-a", token: str = "a" * 16) -> Database:
        return Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance=instance, token=token, limits=limits)

    return make


@pytest.fixture
async def store(database_of: Callable[..., Database]) -> AsyncIterator[PostgresEvents]:
    database = database_of()
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    yield store
    await store.close()


@pytest.fixture
async def sql(sql: psycopg.AsyncConnection[Any]) -> psycopg.AsyncConnection[Any]:
    await sql.execute("create table effects (id text)")
    return sql


async def values(sql: psycopg.AsyncConnection[Any], query: str) -> list[Any]:
    cursor = await sql.execute(query)
    return [row[0] if len(row) == 1 else row for row in await cursor.fetchall()]


def effect(schema: str, id: str) -> Callable[[Transaction], Any]:
    async def work(tx: Transaction) -> None:
        await tx.execute(f'insert into "{schema}".effects values (%s)', (id,))

    return work


async def no_effect(_tx: Transaction) -> None:
    """A handler that only looks."""


async def test_every_attribute_comes_back_equal_in_value(
    store: PostgresEvents, database_of: Callable[..., Database]
) -> None:
    events = [
        Event.new(
            "t",
            {"n": 1.50, "big": 12345678901234567890, "ü": "\U0001f30d\\u0000"},
            id="full",
            source="/s",
            subject="x",
            time="2026-01-02T03:04:05.123456Z",
            datacontenttype="application/json",
            dataschema="https://s",
            extensions={"traceparent": "00-ab", "n": 7, "flag": True},
        ),
        Event.new("t", b"\x00\xff", id="binary"),
        Event.new("t", id="nothing"),
        Event.new("t", "text", id="string", datacontenttype="text/plain"),
    ]
    batch = [arrival(n + 1) for n in range(len(events))]
    for a, event in zip(batch, events, strict=True):
        a.id, a.source, a.type, a.raw = event.id, event.source, event.type, msgspec.Raw(event.to_json())
    assert await store.insert(batch) == [Outcome.STORED] * len(events)
    database = database_of()
    await database.open()
    rows = await EventReader(database).newest(limit=10)
    await database.close()
    found = {row["event"]["id"]: Event.from_json(msgspec.json.encode(row["event"])) for row in rows}
    for event in events:
        assert (found[event.id].data, found[event.id].time, found[event.id].extensions) == (
            event.data,
            event.time,
            event.extensions,
        )
        assert found[event.id].datacontenttype == event.datacontenttype


TIMES = (
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05.123456Z",
    "2026-01-02T03:04:05.000000Z",
    "2026-01-02T03:04:05.12Z",
    "2026-01-02T03:04:05.123456789Z",
    "2026-01-02T03:04:05.1+05:30",
    "2026-01-02t03:04:05z",
    "2026-01-02T03:04:05-00:00",
    "2016-12-31T23:59:60Z",
    "0001-01-01T00:00:00Z",
)


async def test_an_events_time_is_read_back_as_it_was_given_and_is_a_timestamp_in_sql(
    store: PostgresEvents, database_of: Callable[..., Database], sql: psycopg.AsyncConnection[Any]
) -> None:
    def timed(offset: int, time: str) -> Arrival:
        made = arrival(offset)
        made.raw = msgspec.Raw(Event.new(made.type, id=made.id, source=made.source, time=time).to_json())
        return made

    count = len(TIMES)
    alone = [timed(n, time) for n, time in enumerate(TIMES, 1)]
    together = [timed(n, time) for n, time in enumerate(TIMES, count + 1)]
    replayed = [timed(n, time) for n, time in enumerate(TIMES, 2 * count + 1)]
    for each in alone:
        assert await store.process(each, no_effect) is Outcome.STORED
    assert await store.insert(together) == [Outcome.STORED] * count
    database = database_of()
    await database.open()
    for each in replayed:
        assert (await store.dead_letter(each, ValueError("no"))).outcome is Outcome.STORED
        assert await PostgresDeadLetters(database).replay(each.source, each.id, lambda _arrival, tx: no_effect(tx))
    rows = await EventReader(database).newest(limit=100)
    await database.close()
    read = {row["event"]["id"]: row["event"]["time"] for row in rows}
    assert read == {each.id: Event.from_json(each.raw).time for each in (*alone, *together, *replayed)}
    found = await values(sql, "select count(distinct time) from events where time = '2026-01-02T03:04:05.12Z'")
    assert found == [1]
    kept = await values(sql, "select count(*) from events where time_as_given is null")
    assert kept == [3 * 3], "nothing is kept where the timestamp says it all"


@pytest.mark.parametrize("at_us", [0, AT_MAX_US])
async def test_every_time_that_a_frame_may_name_is_stored_and_read_back(
    store: PostgresEvents, database_of: Callable[..., Database], at_us: int
) -> None:
    async def work(tx: Transaction) -> None:
        return None

    alone, together, dead = batch = [arrival(n + 1) for n in range(3)]
    for each in batch:
        each.at_us = at_us
    assert await store.process(alone, work) == Outcome.STORED
    assert await store.insert([together]) == [Outcome.STORED]
    assert (await store.dead_letter(dead, ValueError("no"))).outcome == Outcome.STORED
    database = database_of()
    await database.open()
    rows = await EventReader(database).newest(limit=10)
    await database.close()
    day = datetime.fromtimestamp(at_us / 1e6, UTC).date().isoformat()
    assert [row["accepted_at"][:10] for row in rows] == [day] * 3


async def test_an_os_error_of_the_handlers_own_is_not_taken_for_the_databases(
    store: PostgresEvents, sql: Any
) -> None:
    async def work(tx: Transaction) -> None:
        raise ConnectionRefusedError("a web service of the user's")

    with pytest.raises(ConnectionRefusedError):
        await store.process(arrival(1, "a"), work)


async def test_an_sql_error_within_a_savepoint_is_survived(store: PostgresEvents, sql: Any, schema: str) -> None:
    async def work(tx: Transaction) -> None:
        await effect(schema, "kept")(tx)
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with tx.savepoint():
                await effect(schema, "undone")(tx)
                await tx.execute("select 1 / 0")

    assert await store.process(arrival(1, "a"), work) is Outcome.STORED
    assert await values(sql, "select id from effects") == ["kept"]


async def test_of_the_errors_that_a_handler_survives_only_the_last_are_kept(store: PostgresEvents) -> None:
    async def work(tx: Transaction) -> None:
        for _ in range(RAISED_KEPT + 1):
            with contextlib.suppress(psycopg.errors.DivisionByZero):
                async with tx.savepoint():
                    await tx.execute("select 1 / 0")
        assert isinstance(tx, HandlerTransaction)
        assert len(tx.raised) == RAISED_KEPT

    assert await store.process(arrival(1, "a"), work) is Outcome.STORED


@pytest.mark.parametrize(
    "statement",
    [
        "commit",
        "-- hidden\rCOMMIT",
        " ; COMMIT",
        "/* a /* b */ */ commit",
        "-- hidden\nrollback",
        "end",
        "begin",
        "savepoint s",
        "set role x",
        "prepare transaction 'x'",
        "discard all",
    ],
)
async def test_a_handler_cannot_end_or_divide_its_transaction(
    store: PostgresEvents, sql: Any, schema: str, statement: str
) -> None:
    async def work(tx: Transaction) -> None:
        await effect(schema, "a")(tx)
        try:
            await tx.execute(statement)
        except TransactionClosed:
            raise
        except psycopg.Error as error:
            raise TransactionClosed(str(error)) from error

    with pytest.raises(TransactionClosed):
        await store.process(arrival(1, "a"), work)
    assert await values(sql, "select id from effects union all select id from events") == []


async def test_no_second_statement_hides_behind_the_first(store: PostgresEvents, sql: Any, schema: str) -> None:
    async def work(tx: Transaction) -> None:
        await effect(schema, "a")(tx)
        with pytest.raises(psycopg.errors.SyntaxError):
            await tx.execute("select 1; commit; begin")

    with pytest.raises(AttemptFailed):
        await store.process(arrival(1, "a"), work)
    assert await values(sql, "select id from effects union all select id from events") == []


async def test_a_transaction_kept_beyond_its_attempt_is_dead(store: PostgresEvents, sql: Any) -> None:
    kept: list[Transaction] = []

    async def work(tx: Transaction) -> None:
        kept.append(tx)

    await store.process(arrival(1), work)
    with pytest.raises(TransactionClosed, match="ended with its attempt"):
        await kept[0].execute("select 1")


async def test_a_statement_that_waits_its_turn_when_its_handler_returns_is_the_events_still(
    store: PostgresEvents, sql: Any, schema: str
) -> None:
    waiting: list[asyncio.Task[None]] = []

    async def work(tx: Transaction) -> None:
        waiting.append(asyncio.create_task(effect(schema, "waited")(tx)))
        await effect(schema, "a")(tx)

    assert await store.process(arrival(1, "a"), work) is Outcome.STORED
    await waiting[0]
    assert await values(sql, "select id from effects order by 1") == ["a", "waited"]


async def test_a_statement_that_runs_when_its_handler_returns_still_belongs_to_the_event(
    store: PostgresEvents, sql: Any, schema: str
) -> None:
    under_way: list[asyncio.Task[int]] = []

    async def work(tx: Transaction) -> None:
        slow = f"insert into {schema}.effects select 'slow' from pg_sleep(0.2)"
        under_way.append(asyncio.create_task(tx.execute(slow)))
        await asyncio.sleep(0)  # it begins

    assert await store.process(arrival(1, "a"), work) is Outcome.STORED
    assert await under_way[0] == 1
    assert await values(sql, "select id from effects") == ["slow"]


async def test_a_task_that_outlives_its_attempt_writes_into_no_other_events_transaction(
    database_of: Callable[..., Database], store: PostgresEvents, sql: Any, schema: str
) -> None:
    leaked: list[asyncio.Task[None]] = []

    async def leak(tx: Transaction) -> None:
        async def write_on() -> None:
            while True:
                await effect(schema, "leaked")(tx)

        leaked.append(asyncio.create_task(write_on()))
        await effect(schema, "a")(tx)

    assert await store.process(arrival(1, "a"), leak) is Outcome.STORED
    during = await values(sql, "select count(*) from effects where id = 'leaked'")
    with pytest.raises(TransactionClosed):
        await leaked[0]
    for n in range(2, 8):
        assert await store.process(arrival(n), effect(schema, f"{n}")) is Outcome.STORED
    assert await values(sql, "select count(*) from effects where id = 'leaked'") == during


async def test_a_savepoint_kept_beyond_its_attempt_reaches_no_other_events_transaction(
    store: PostgresEvents, sql: Any, schema: str
) -> None:
    inside, let_go = asyncio.Event(), asyncio.Event()
    leaked: list[asyncio.Task[None]] = []

    async def leak(tx: Transaction) -> None:
        async def keep() -> None:
            async with tx.savepoint():
                inside.set()
                await let_go.wait()

        leaked.append(asyncio.create_task(keep()))
        await inside.wait()

    async def meanwhile(tx: Transaction) -> None:
        let_go.set()
        with pytest.raises(TransactionClosed):
            await leaked[0]
        await effect(schema, "b")(tx)

    with pytest.raises(AttemptFailed, match="still open"):
        await store.process(arrival(1, "a"), leak)
    assert await store.process(arrival(2, "b"), meanwhile) is Outcome.STORED
    assert await values(sql, "select id from effects") == ["b"]


async def test_savepoints_nest_and_each_undoes_only_its_own(store: PostgresEvents, sql: Any, schema: str) -> None:
    async def work(tx: Transaction) -> None:
        async with tx.savepoint():
            await effect(schema, "outer")(tx)
            with pytest.raises(ValueError, match="no"):
                async with tx.savepoint():
                    await effect(schema, "inner")(tx)
                    raise ValueError("no")
        await effect(schema, "after")(tx)

    assert await store.process(arrival(1), work) is Outcome.STORED
    assert await values(sql, "select id from effects order by 1") == ["after", "outer"]


async def test_another_database_of_the_handlers_that_is_away_is_not_taken_for_ours(store: PostgresEvents) -> None:
    async def work(tx: Transaction) -> None:
        await psycopg.AsyncConnection.connect("postgres://127.0.0.1:1/other", connect_timeout=2)

    with pytest.raises(psycopg.OperationalError):
        await store.process(arrival(1), work)


async def test_an_event_that_postgresql_refuses_becomes_one_dead_letter_even_after_several_tries(
    store: PostgresEvents, sql: Any
) -> None:
    def bad(offset: int) -> Arrival:
        of = arrival(offset, "b")
        of.raw = msgspec.Raw(b'{"specversion":"1.0","id":"b","source":"/oncecast","type":"tick","data":"\\u0000"}')
        return of

    assert (await store.dead_letter(bad(2), ValueError("no"))).outcome is Outcome.STORED
    assert (await store.dead_letter(bad(2), ValueError("no"))).outcome is Outcome.PRESENT
    assert (await store.dead_letter(bad(9), ValueError("no"))).outcome is Outcome.CONFLICT
    assert await values(sql, 'select "offset" from conflicts') == [9]
    assert await values(sql, "select count(*) from dead_letters") == [1]


async def test_a_page_of_large_events_ends_early_and_its_mark_brings_the_rest(
    database_of: Callable[..., Database], store: PostgresEvents
) -> None:
    batch = [arrival(n + 1) for n in range(12)]
    for a in batch:
        a.raw = msgspec.Raw(Event.new(a.type, "x" * 1_000_000, id=a.id, source=a.source).to_json())
    assert await store.insert(batch) == [Outcome.STORED] * 12
    database = database_of()
    await database.open()
    reader = EventReader(database)
    pages: list[list[str]] = []
    after = None
    while after is not None or not pages:
        rows = await reader.newest(limit=1_000, after=after)
        pages.append([row["event"]["id"] for row in rows])
        after = page("events", rows, 1_000)["next"]
    await database.close()
    assert [len(ids) for ids in pages] == [5, 5, 2]
    assert {id_ for ids in pages for id_ in ids} == {a.id for a in batch}


async def test_many_slow_readers_leave_connections_for_what_must_go_on(
    database_of: Callable[..., Database], store: PostgresEvents, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database_of()
    await database.open()
    slow = psycopg.sql.SQL("select pg_sleep(3)")
    reader, writer = EventReader(database), PostgresEvents(database)
    monkeypatch.setitem(database.queries, "newest", psycopg.sql.Composed([slow]))
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read_or_refuse(reader)) for _ in range(30)]
        await until_running(sql, "FETCH ")
        async with asyncio.timeout(2):
            assert await writer.insert([arrival(1)]) == [Outcome.STORED]
            assert await writer.load_cursor(JOURNAL) is None
        for task in readers:
            task.cancel()
    await database.close()


async def read_or_refuse(reader: EventReader) -> None:
    with contextlib.suppress(Unavailable, KeyError):
        await reader.newest(limit=1)


async def until_running(sql: psycopg.AsyncConnection[Any], what: str) -> None:
    query = (
        f"select 1 from pg_stat_activity where state = 'active' and query like '%{what}%' and pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(120):
        while not await values(sql, query):
            await asyncio.sleep(0.01)


async def test_a_migration_waits_for_anothers_that_takes_longer_than_a_lock_may(
    database_of: Callable[..., Database], sql: Any, schema: str
) -> None:
    database = database_of()
    async with sql.transaction():
        await sql.execute("select pg_advisory_xact_lock(hashtext('oncecast'), hashtext(%s))", (schema,))
        migrating = asyncio.create_task(database.migrate())
        _, pending = await asyncio.wait([migrating], timeout=3 * LIMITS.lock_s)
        assert pending
    await migrating


async def test_one_bad_row_refuses_its_batch_and_says_that_it_is_the_data(store: PostgresEvents, sql: Any) -> None:
    bad = arrival(2)
    bad.raw = msgspec.Raw(b'{"specversion":"1.0","id":"id-2","source":"/oncecast","type":"tick","data":"\\u0000"}')
    with pytest.raises(DataRefused):
        await store.insert([arrival(1), bad])
    assert await values(sql, "select id from events") == []


async def test_dead_lettering_keeps_the_row_as_dead_with_its_cause_and_raw_bytes(
    store: PostgresEvents, sql: Any
) -> None:
    good, bad = arrival(1, "a"), arrival(2, "b")
    bad.raw = msgspec.Raw(b'{"specversion":"1.0","id":"b","source":"/oncecast","type":"tick","data":"\\u0000"}')
    cause = ValueError("no such \0 stock")
    assert (await store.dead_letter(good, cause)).outcome is Outcome.STORED
    assert (await store.dead_letter(bad, cause)).outcome is Outcome.STORED
    assert (await store.dead_letter(good, cause)).outcome is Outcome.PRESENT
    assert await values(sql, "select id, status from events order by id") == [("a", "dead"), ("b", "dead")]
    assert await values(sql, "select raw from dead_letters where id = 'b'") == [bytes(bad.raw)]
    assert await values(sql, "select error from dead_letters where id = 'a'") == ["ValueError: no such \ufffd stock"]


async def test_another_listeners_saved_cursor_is_taken_over(store: PostgresEvents) -> None:
    await store.probe()  # it connects
    await record(store, 1, 10)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=10)
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=5)
    assert (save.saved, save.missing) == (Cursor("e1", 10), False)


async def test_recorded_ranges_are_deleted_when_the_cursor_has_passed_them(store: PostgresEvents, sql: Any) -> None:
    await store.probe()
    for first in (*range(1, 2_500), 2_501):
        await record(store, first, first)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=0)
    assert await values(sql, "select first from ranges") == [2_501]


async def test_a_cursor_that_went_back_with_the_database_is_reported(store: PostgresEvents) -> None:
    await store.probe()
    await record(store, 1, 5)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=5)
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 8), proved=8)
    assert (save.saved, save.missing) == (Cursor("e1", 5), True)


async def test_a_cursor_of_a_journals_lost_future_counts_up_to_where_the_histories_part(
    store: PostgresEvents,
) -> None:
    await store.probe()
    lost = [Epoch("e1", 1), Epoch("lost", 4)]
    await record(store, 1, 3)
    await record(store, 4, 5, epoch="lost")
    await store.save_cursor(JOURNAL, lost, position=Cursor("e1", 0), proved=5)
    restored = [Epoch("e1", 1), Epoch("e2", 3)]
    await store.adopt_cursor(JOURNAL, restored, instead_of=lost)
    await record(store, 3, 4, epoch="e2")
    save = await store.save_cursor(JOURNAL, restored, position=Cursor("e1", 2), proved=4)
    assert (save.saved, save.missing) == (Cursor("e2", 4), False)


async def test_a_cursor_that_another_listener_is_at_is_left_to_it(store: PostgresEvents, sql: Any) -> None:
    await store.probe()
    await record(store, 1, 2)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=2)
    await record(store, 3, 5)
    async with sql.transaction():
        await sql.execute("select * from cursors for update")
        save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=5)
    assert (save.saved, save.missing) == (Cursor("e1", 2), False)


async def test_a_probe_that_only_reads_leaves_nothing(store: PostgresEvents, sql: Any) -> None:
    await store.probe(writes=False)
    assert await values(sql, "select listener from probes") == []


async def test_a_probe_finds_a_standby_which_answers_but_takes_no_writes(store: PostgresEvents) -> None:
    store._db.queries["is_read_only"] = b"select true"
    with pytest.raises(Unavailable, match="accepts no writes"):
        await store.probe(writes=False)


async def test_a_probe_whose_table_somebody_has_locked_says_that_postgresql_answers(
    store: PostgresEvents, sql: Any
) -> None:
    async with sql.transaction():
        await sql.execute("lock table probes")
        with pytest.raises(RowLocked):
            await store.probe()


async def test_probe_writes_on_a_fresh_connection(store: PostgresEvents, sql: Any) -> None:
    await store.probe()
    await store.probe()
    assert await values(sql, "select listener from probes") == ["listener-a"]


async def test_commits_are_durable_whatever_the_servers_default(store: PostgresEvents, sql: Any) -> None:
    async def work(tx: Transaction) -> None:
        row = await tx.fetch_one("select current_setting('synchronous_commit') as setting")
        assert row == {"setting": "on"}

    await store.process(arrival(1), work)


async def test_old_rows_go_in_small_batches_but_never_above_the_cursor_and_dead_letters_stay(
    store: PostgresEvents, sql: Any
) -> None:
    batch = [arrival(n) for n in range(1, 11)]
    await store.insert(batch)
    await store.dead_letter(arrival(11), DataRefused("no"))
    await store.insert([arrival(n, epoch="other") for n in range(12, 14)])
    assert await store.count_prunable(older_than_s=0.0) == 0, "no cursor is saved"
    await record(store, 1, 8)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=8)
    assert await store.count_prunable(older_than_s=3600.0) == 0
    assert await store.count_prunable(older_than_s=0.0) == 8
    counts, up_to = [], None
    for _ in range(3):
        count, up_to = await store.prune(older_than_s=0.0, limit=5, after=up_to)
        counts.append(count)
    assert counts == [5, 3, 0]
    assert await values(sql, 'select "offset" from events order by 1') == [9, 10, 11, 12, 13]


async def test_an_error_of_another_postgresql_is_raised_as_it_is_and_a_deadlock_of_this_one_as_a_conflict(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    async def of_another(tx: Transaction) -> None:
        raise psycopg.errors.AdminShutdown("of a server of the handler's own")

    async def of_ours(tx: Transaction) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(tx.execute("do $$ begin raise sqlstate '40P01' using message = 'deadlock'; end $$"))

    with pytest.raises(psycopg.errors.AdminShutdown):
        await store.process(arrival(1, "x"), of_another)
    with pytest.raises(TransactionConflict):
        await store.process(arrival(1, "x"), of_ours)


async def test_an_error_that_a_lost_connection_has_led_to_is_the_databases(store: PostgresEvents) -> None:
    async def work(tx: Transaction) -> None:
        try:
            await tx.execute("select pg_terminate_backend(pg_backend_pid())")
        except psycopg.Error:
            raise ValueError("wrapped by the handler") from None

    with pytest.raises(Unavailable, match="lost"):
        await store.process(arrival(1, "x"), work)


async def test_a_handler_whose_time_ran_out_while_postgresql_stood_still_is_not_to_blame(
    store: PostgresEvents,
) -> None:
    frozen = 0

    async def work(tx: Transaction) -> None:
        nonlocal frozen
        row = await tx.fetch_one("select pg_backend_pid() as pid")
        frozen = row["pid"] if row else 0
        os.kill(frozen, signal.SIGSTOP)
        async with asyncio.timeout(0.1):
            await tx.execute("select 1")

    try:
        with pytest.raises(Unavailable, match="lost"):
            await store.process(arrival(1, "x"), work)
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_a_schema_that_changes_under_statements_that_were_prepared_costs_no_attempt_and_one_try_for_all(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    connections, all_look = 3, asyncio.Barrier(3)

    async def look(tx: Transaction) -> None:
        await tx.fetch_all(f'select * from "{schema}".effects')

    async def look_together(tx: Transaction) -> None:
        await look(tx)
        await all_look.wait()

    async with asyncio.TaskGroup() as group:
        for n in range(1, connections + 1):
            group.create_task(store.process(arrival(n, f"{n}"), look_together))
    await sql.execute("alter table effects add other text")
    with pytest.raises(TransactionConflict, match="cached plan"):
        await store.process(arrival(9, "9"), look)
    for n in range(9, 9 + connections):
        assert await store.process(arrival(n, f"{n}"), look) is Outcome.STORED


@pytest.mark.parametrize(
    "query",
    [
        "set local transaction isolation level serializable",
        "do $$ begin raise exception using errcode = 'XX000'; end $$",
        "do $$ begin raise exception using errcode = '58P01'; end $$",
        "do $$ begin raise exception using errcode = '08001'; end $$",
    ],
)
async def test_what_says_nothing_of_the_database_is_an_error_of_the_handlers(
    store: PostgresEvents, query: str
) -> None:
    async def work(tx: Transaction) -> None:
        await tx.execute(query)

    with pytest.raises(psycopg.Error) as raised:
        await store.process(arrival(1, "x"), work)
    assert classify(raised.value) is Cost.RETRY


@pytest.mark.parametrize("state", ["25006", "53100", "57P03", "58030", "XX001"])
async def test_what_tells_of_the_databases_trouble_costs_the_event_nothing(store: PostgresEvents, state: str) -> None:
    async def work(tx: Transaction) -> None:
        await tx.execute(f"do $$ begin raise exception using errcode = '{state}'; end $$")

    with pytest.raises(Unavailable):
        await store.process(arrival(1, "x"), work)


async def test_a_copy_that_a_handler_has_begun_and_forgotten_fails_its_attempt(store: PostgresEvents) -> None:
    async def work(tx: Transaction) -> None:
        with contextlib.suppress(psycopg.Error):
            await tx.execute("copy (select 1) to stdout")

    with pytest.raises(AttemptFailed, match="COPY"):
        await store.process(arrival(1, "x"), work)
    assert await store.process(arrival(1, "x"), no_effect) is Outcome.STORED


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("select set_config('app.tenant', 'a', false)", "current_setting('app.tenant', true)"),
        (
            "select pg_advisory_lock(pg_backend_pid())",
            "(select max(objid::text) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())",
        ),
        ("create temporary table leftover (n integer)", "to_regclass('pg_temp.leftover')::text"),
        ("declare kept cursor with hold for select 1", "(select max(name) from pg_cursors)"),
    ],
)
async def test_nothing_that_a_handler_leaves_to_its_session_is_there_for_the_next_event(
    store: PostgresEvents, query: str, found: str
) -> None:
    seen: list[Any] = []

    async def leave(tx: Transaction) -> None:
        await tx.execute(query)

    async def look(tx: Transaction) -> None:
        seen.append(await tx.fetch_one(f"select {found} as found"))

    async with asyncio.TaskGroup() as group:
        for n in range(1, 31):
            group.create_task(store.process(arrival(n, f"{n}"), leave if n % 2 else look))
    assert {row["found"] or None for row in seen} == {None}


@pytest.mark.parametrize(
    ("query", "leaves"),
    [
        ("select set_config('app.tenant', %s, true)", False),
        ("select set_config('app.tenant', %s, false)", True),
        ("select pg_advisory_xact_lock(1)", False),
        ("select pg_try_advisory_lock(1)", True),
        ("create temp table x (n int) on commit drop", False),
        ("create temp table x (n int)", True),
        ("select * into temp x from y", True),
        ("insert into weather (temp, temporary) values (1, 2)", False),
        ("select set_config('app.tenant', coalesce(nullif(%s, ''), 'a'), true)", False),
        ("select set_config('app.tenant', %s, is_local => true)", False),
        ("select set_config('app.tenant', coalesce(%s, ''), false)", True),
        ("create or replace temp view x as select 1", True),
        ('create table "pg_temp".x (n int)', True),
        ("do $$ begin set app.tenant = 'a'; end $$", True),
        ("do $$ begin set local app.tenant = 'a'; update x set n = 1; end $$", False),
        ("update x set n = 1", False),
    ],
)
def test_a_session_is_given_up_for_what_may_stay_with_it_and_for_nothing_else(query: str, leaves: bool) -> None:
    assert leaves_session_state(query) is leaves


async def test_a_threads_statement_that_outlasts_all_bounds_is_ended_and_costs_its_own_event_only(
    postgres_url: str, schema: str
) -> None:
    limits = Limits(statement_s=1.0)
    database = Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16, limits=limits)
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    begun, threads = asyncio.Event(), []

    async def of_a_thread(tx: Transaction) -> None:
        await tx.execute("set local statement_timeout = 0")
        begun.set()
        await tx.execute("select pg_sleep(600)")

    async def work(tx: Transaction) -> None:
        threads.append(asyncio.create_task(of_a_thread(tx)))
        await begun.wait()
        raise TimeoutError("HANDLER_TIMEOUT")

    with pytest.raises(TimeoutError, match="HANDLER_TIMEOUT"):
        await store.process(arrival(1, "x"), work)
    (result,) = await asyncio.gather(*threads, return_exceptions=True)
    assert isinstance(result, psycopg.errors.QueryCanceled)
    assert await store.process(arrival(1, "x"), no_effect) is Outcome.STORED
    await store.close()


async def test_handlers_that_keep_every_connection_of_theirs_keep_no_other_event_from_being_stored(
    postgres_url: str, schema: str
) -> None:
    database = Database(
        postgres_url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16, limits=replace(LIMITS, pool_size=1)
    )
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    began, over = asyncio.Event(), asyncio.Event()

    async def keep(tx: Transaction) -> None:
        began.set()
        await over.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(store.process(arrival(1, "slow"), keep))
        await began.wait()
        assert await store.insert([arrival(2, "x"), arrival(3, "y")]) == [Outcome.STORED, Outcome.STORED]
        assert (await store.dead_letter(arrival(4, "z"), ValueError("no"))).outcome is Outcome.STORED
        over.set()
    await store.close()


@pytest.mark.parametrize("query", ["select id from {}.effects", "values (1)"])
async def test_what_another_task_reads_meanwhile_is_nothing_that_a_savepoint_could_lose(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str, query: str
) -> None:
    async def work(tx: Transaction) -> None:
        await beside_a_savepoint_that_is_rolled_back(tx, lambda: tx.fetch_all(query.format(f'"{schema}"')))

    assert await store.process(arrival(1, "x"), work) is Outcome.STORED


async def test_a_savepoint_of_a_thread_takes_back_its_block_alone(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    insert = f'insert into "{schema}".effects values (%s)'

    async def work(tx: Transaction) -> None:
        in_thread = ThreadTransaction(tx)

        def handler() -> None:
            in_thread.execute(insert, ("before",))
            for survived in (True, False):
                with contextlib.suppress(ValueError), in_thread.savepoint():
                    in_thread.execute(insert, (f"{survived}",))
                    with in_thread.savepoint(), ThreadPoolExecutor() as pool:
                        pool.submit(in_thread.execute, insert, (f"within {survived}",)).result()
                    if not survived:
                        raise ValueError

        await asyncio.to_thread(handler)

    assert await store.process(arrival(1, "x"), work) is Outcome.STORED
    assert await values(sql, "select id from effects order by id") == ["True", "before", "within True"]


@pytest.mark.parametrize("limits", [replace(LIMITS, undo_s=0.1)])
async def test_a_savepoint_that_cannot_be_rolled_back_fails_the_attempt_whatever_its_handler_makes_of_it(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    async def work(tx: Transaction) -> None:
        with contextlib.suppress(ValueError):
            async with tx.savepoint():
                await effect(schema, "half")(tx)
                in_the_way = asyncio.create_task(tx.execute("select pg_sleep(0.5)"))
                await asyncio.sleep(0)
                raise ValueError
        await in_the_way
        with contextlib.suppress(ValueError):  # a later one that can be makes nothing good
            async with tx.savepoint():
                raise ValueError

    with pytest.raises(AttemptFailed, match="could not be rolled back"):
        await store.process(arrival(1, "x"), work)
    assert await values(sql, "select id from events") == []
    assert await values(sql, "select id from effects") == []
