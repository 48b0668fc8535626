"""What every event store does about the promise: each event ends once, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from oncecast.core.errors import AttemptFailed, Reject, RowLocked, TransactionClosed, Unavailable
from oncecast.core.event import Cursor
from oncecast.core.ports import DeadLetters, EventStore, Outcome, Transaction
from oncecast.core.wire import Epoch
from oncecast.stores.memory import MemoryEvents, MemoryLetters, MemoryPostgres
from oncecast.stores.memory.client import EFFECT
from oncecast.stores.postgres import Database, PostgresEvents, PostgresLetters
from oncecast.stores.postgres.database import Limits
from tests.conformance.test_event_store import EPOCHS, JOURNAL, arrival

Work = Callable[[Transaction], Awaitable[None]]


class Postgres:
    """The real one."""

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._schema = url, schema
        self._databases: list[Database] = []

    async def of(self, token: str) -> tuple[EventStore, DeadLetters]:
        limits = Limits(lock_s=0.3, statement_s=5.0)
        database = Database(self._url, schema=self._schema, instance=token, token=token, limits=limits)
        await database.open()
        await database.migrate()
        self._databases.append(database)
        await self._ask(f'create table if not exists "{self._schema}".effects (id text)')
        return PostgresEvents(database), PostgresLetters(database)

    async def effect(self, tx: Transaction, id: str) -> None:
        await tx.execute(f'insert into "{self._schema}".effects values (%s)', (id,))

    async def statuses(self) -> dict[str, str]:
        return dict(await self._ask(f'select id, status from "{self._schema}".events'))

    async def effects(self) -> dict[str, int]:
        return dict(await self._ask(f'select id, count(*) from "{self._schema}".effects group by 1'))

    async def gaps(self) -> list[tuple[int, int, str]]:
        return await self._ask(f'select first, last, reason from "{self._schema}".gaps')

    async def lose(self, id: str) -> None:
        await self._ask(f"delete from \"{self._schema}\".events where id = '{id}'")

    async def close(self) -> None:
        for database in self._databases:
            await database.close()

    async def _ask(self, query: str) -> Any:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            cursor = await connection.execute(sql.SQL(query))  # type: ignore[arg-type]
            return await cursor.fetchall() if cursor.description else []


class Memory:
    """The one that stands for it."""

    def __init__(self) -> None:
        self._server = MemoryPostgres()
        self._server.lock_timeout_s = 0.3

    async def of(self, token: str) -> tuple[EventStore, DeadLetters]:
        return (
            MemoryEvents(self._server, instance=token, token=token),
            MemoryLetters(self._server, instance=token, token=token),
        )

    async def effect(self, tx: Transaction, id: str) -> None:
        await tx.execute(EFFECT, (id,))

    async def statuses(self) -> dict[str, str]:
        return {row.id: row.status for row in self._server.tables.rows.values()}

    async def effects(self) -> dict[str, int]:
        return self._server.tables.effects

    async def gaps(self) -> list[tuple[int, int, str]]:
        return [(first, last, reason) for _, _, first, last, reason in self._server.tables.gaps]

    async def lose(self, id: str) -> None:
        for identity, row in list(self._server.tables.rows.items()):
            if row.id == id:
                del self._server.tables.rows[identity]

    async def close(self) -> None:
        """Nothing is open."""


Server = Postgres | Memory


@pytest.fixture(params=["postgres", "memory"])
async def server(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[Server]:
    made: Server = Memory()
    if request.param == "postgres":
        made = Postgres(request.getfixturevalue("postgres_url"), schema)
    yield made
    await made.close()


async def test_a_batch_is_stored_once_and_found_at_its_place_again(server: Server) -> None:
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 51)]
    assert await store.insert(batch) == [Outcome.STORED] * 50
    assert await store.insert(batch) == [Outcome.PRESENT] * 50
    assert len(await server.statuses()) == 50


async def test_the_same_identity_from_elsewhere_is_a_duplicate_or_a_conflict(server: Server) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "a", {"x": 1}), arrival(2, "b", {"x": 1})])
    again = [arrival(3, "a", {"x": 1}), arrival(4, "b", {"x": 2}), arrival(5, "c", {})]
    assert await store.insert(again) == [Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.STORED]


async def test_row_and_effect_commit_together_and_only_once(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "a")

    assert await store.process(arrival(1, "a"), work) is Outcome.STORED
    assert await store.process(arrival(1, "a"), work) is Outcome.PRESENT
    assert (await server.statuses(), await server.effects()) == ({"a": "stored"}, {"a": 1})


async def test_a_handler_that_raises_leaves_nothing(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "a")
        raise Reject("no")

    with pytest.raises(Reject):
        await store.process(arrival(1, "a"), work)
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_swallowed_error_of_a_statement_is_a_failed_attempt(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "a")
        with pytest.raises((psycopg.Error, SyntaxError)):
            await tx.execute("this is no statement")

    with pytest.raises(AttemptFailed, match="swallowed"):
        await store.process(arrival(1, "a"), work)
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_transaction_is_dead_once_its_attempt_is_over(server: Server) -> None:
    store, _ = await server.of("a")
    kept: list[Transaction] = []

    async def work(tx: Transaction) -> None:
        kept.append(tx)

    await store.process(arrival(1, "a"), work)
    with pytest.raises(TransactionClosed):
        await server.effect(kept[0], "a")


async def test_an_insert_waits_for_anothers_open_transaction_and_decides_nothing_before_it_ends(
    server: Server,
) -> None:
    a, _ = await server.of("a")
    b, _ = await server.of("b")
    began, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "x")
        began.set()
        await go_on.wait()

    async with asyncio.TaskGroup() as group:
        first = group.create_task(a.process(arrival(1, "x"), work))
        await began.wait()
        with pytest.raises(RowLocked):
            await b.insert([arrival(1, "x")])
        second = group.create_task(b.process(arrival(1, "x"), work))
        go_on.set()
    assert (first.result(), second.result()) == (Outcome.STORED, Outcome.PRESENT)
    assert await server.effects() == {"x": 1}


async def test_a_dead_holders_sessions_end_and_its_row_is_free(server: Server) -> None:
    a, _ = await server.of("aaaaaaaaaaaaaaaa")
    b, _ = await server.of("bbbbbbbbbbbbbbbb")
    began, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "x")
        began.set()
        await go_on.wait()

    async with asyncio.TaskGroup() as group:
        held = group.create_task(_outcome(a.process(arrival(1, "x"), work)))
        await began.wait()
        assert await b.end_sessions("aaaaaaaaaaaaaaaa") >= 1
        assert await b.insert([arrival(1, "x")]) == [Outcome.STORED]
        go_on.set()
    assert isinstance(held.result(), Unavailable)
    assert await server.effects() == {}


async def _outcome(attempt: Awaitable[Outcome]) -> object:
    try:
        return await attempt
    except Unavailable as error:
        return error


async def test_an_event_is_buried_once_and_never_after_it_was_stored(server: Server) -> None:
    store, _ = await server.of("a")
    assert await store.bury(arrival(1, "a"), Reject("no")) is Outcome.STORED
    assert await store.bury(arrival(1, "a"), Reject("no")) is Outcome.PRESENT
    await store.insert([arrival(2, "b")])
    assert await store.bury(arrival(2, "b"), Reject("no")) is Outcome.PRESENT
    assert await server.statuses() == {"a": "dead", "b": "stored"}
    [letter] = await store.unfiled(10)
    assert (letter.id, letter.error) == ("a", "Reject: no")
    await store.mark_filed([letter])
    assert await store.unfiled(10) == []


async def test_a_replay_turns_dead_into_stored_together_with_its_effect_once(server: Server) -> None:
    store, letters = await server.of("a")
    await store.bury(arrival(1, "a"), Reject("no"))

    async def work(_arrival: object, tx: Transaction) -> None:
        await server.effect(tx, "a")

    async def fail(_arrival: object, tx: Transaction) -> None:
        await server.effect(tx, "a")
        raise Reject("still not")

    with pytest.raises(Reject):
        await letters.replay("/oncecast", "a", fail)
    assert await server.statuses() == {"a": "dead"}
    assert [await letters.replay("/oncecast", "a", work) for _ in range(2)] == [True, False]
    assert (await server.statuses(), await server.effects()) == ({"a": "stored"}, {"a": 1})


async def test_a_cursor_goes_over_rows_that_are_there_and_no_further(server: Server) -> None:
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 6)]
    await store.insert(batch[:3])
    saved = await store.save_cursor(JOURNAL, EPOCHS, batch, position=Cursor("e1", 0))
    assert (saved.saved, saved.missing) == (Cursor("e1", 3), True)
    await store.insert(batch[3:])
    saved = await store.save_cursor(JOURNAL, EPOCHS, batch, position=Cursor("e1", 3))
    assert (saved.saved, saved.missing) == (Cursor("e1", 5), False)
    found = await store.load_cursor(JOURNAL)
    assert found is not None
    assert found.cursor == Cursor("e1", 5)


async def test_a_row_that_was_lost_before_the_cursor_is_missed(server: Server) -> None:
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 4)]
    await store.insert(batch)
    await server.lose("id-2")
    saved = await store.save_cursor(JOURNAL, EPOCHS, batch, position=Cursor("e1", 0))
    assert (saved.saved, saved.missing) == (Cursor("e1", 1), True)


async def test_a_gap_is_passed_once_with_its_bounds_and_only_from_where_it_begins(server: Server) -> None:
    store, _ = await server.of("a")
    ahead = {"first": 9, "reason": "skipped", "after": 2}
    assert await store.pass_gap(JOURNAL, EPOCHS, **ahead) is None
    batch = [arrival(n) for n in range(1, 3)]
    await store.insert(batch)
    await store.begin_cursor(JOURNAL, EPOCHS, Cursor("e1", 0))
    assert await store.pass_gap(JOURNAL, EPOCHS, **ahead) == Cursor("e1", 0)
    await store.save_cursor(JOURNAL, EPOCHS, batch, position=Cursor("e1", 0))
    later = [*EPOCHS, Epoch("e2", 7)]
    assert [await store.pass_gap(JOURNAL, later, **ahead) for _ in range(2)] == [Cursor("e2", 8)] * 2
    assert await server.gaps() == [(3, 8, "skipped")]


async def test_nothing_ends_in_the_name_of_an_application_that_is_not_the_newest(server: Server) -> None:
    a, _ = await server.of("a")
    b, _ = await server.of("b")
    assert await a.agree(frozenset(("x",)), adopt=False) == frozenset()
    assert await b.agree(frozenset(("x", "y")), adopt=False) == frozenset()
    with pytest.raises(RowLocked):
        await a.insert([arrival(1)])
    assert await a.agree(frozenset(("x",)), adopt=False) == frozenset(("y",))
    assert await b.insert([arrival(1)]) == [Outcome.STORED]
    assert await a.agree(frozenset(("x",)), adopt=True) == frozenset()
    assert await a.insert([arrival(2)]) == [Outcome.STORED]


async def test_who_has_not_heard_of_the_opening_in_which_the_cursor_stands_does_not_move_it(server: Server) -> None:
    """It may know a future of the journal that is lost: what ends there is no place in what came instead."""
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 6)]
    await store.insert(batch)
    newer = [*EPOCHS, Epoch("e2", 3)]
    await store.begin_cursor(JOURNAL, newer, Cursor("e2", 4))
    saved = await store.save_cursor(JOURNAL, EPOCHS, batch, position=Cursor("e1", 0))
    assert saved == (None, True), "it has to read again"
    found = await store.load_cursor(JOURNAL)
    assert found is not None
    assert found.cursor == Cursor("e2", 4)
