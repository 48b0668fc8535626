"""Handlers that wait for a connection are begun by the COMMIT of the one before, in a transaction of their own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.pq.abc import PGresult

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import DataRefused, Unavailable
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.transaction import Transaction
from oncecast.stores.postgres import Database, PostgresEvents, handover
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Limits
from oncecast.stores.postgres.message import send
from tests.support.places import arrival

Work = Callable[[Transaction], Awaitable[None]]
LIMITS = Limits(lock_s=0.3, statement_s=5.0, pool_size=4, handlers_max=1)


@pytest.fixture
async def store(postgres_url: str, schema: str) -> AsyncIterator[PostgresEvents]:
    """A store for one handler at a time."""
    database = Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16, limits=LIMITS)
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    yield store
    await store.close()


async def ids(sql: psycopg.AsyncConnection[Any]) -> list[str]:
    return [id_ for (id_,) in await (await sql.execute("select id from events order by id")).fetchall()]


class Queue:
    """A handler that runs until it is released, and the events that wait behind it."""

    def __init__(self, store: PostgresEvents) -> None:
        self._store = store
        self._runs, self.go_on = asyncio.Event(), asyncio.Event()
        self.pid = 0

    async def begin(self, last_statement: str | None = None) -> asyncio.Task[Outcome | EarlierAttempts]:
        """Its event is the first; `last_statement` is what it ends with."""

        async def work(tx: Transaction) -> None:
            row = await tx.fetch_one("select pg_backend_pid() as pid")
            self.pid = row["pid"] if row else 0
            self._runs.set()
            await self.go_on.wait()
            if last_statement:
                await tx.execute(last_statement)

        first = asyncio.create_task(self._store.process(arrival(1, "first"), work))
        await self._runs.wait()
        return first

    async def join(self, one: Any, work: Work) -> asyncio.Task[Outcome | EarlierAttempts]:
        """Another that waits for the connection."""
        task = asyncio.create_task(self._store.process(one, work))
        await asyncio.sleep(0)
        return task


async def nothing(tx: Transaction) -> None: ...


async def test_the_commit_of_one_takes_along_how_the_next_begins(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    queue, seen = Queue(store), list[Any]()
    first = await queue.begin()

    async def look(tx: Transaction) -> None:
        query = "select query, state from pg_stat_activity where pid = %s"
        seen.append(await (await sql.execute(query, (queue.pid,))).fetchone())

    second = await queue.join(arrival(2, "second"), look)
    queue.go_on.set()
    assert (await first, await second) == (Outcome.STORED, Outcome.STORED)
    [(query, state)] = seen
    assert query.startswith("commit; begin; ")
    assert state == "idle in transaction"
    assert await ids(sql) == ["first", "second"]


async def test_a_commit_that_fails_is_its_own_trouble_only(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    await sql.execute("create table once (n integer unique deferrable initially deferred)")
    queue = Queue(store)
    first = await queue.begin(f'insert into "{schema}".once values (1), (1)')
    second = await queue.join(arrival(2, "second"), nothing)
    queue.go_on.set()
    with pytest.raises(DataRefused, match="once_n_key"):
        await first
    assert await second is Outcome.STORED
    assert await ids(sql) == ["second"]


async def test_a_commit_that_was_never_run_is_not_believed(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    queue = Queue(store)
    first = await queue.begin("set local statement_timeout = '1ms'")
    large = arrival(2, "large")
    event = {**msgspec.json.decode(large.raw), "data": ["some more"] * 90_000}
    large.raw = msgspec.Raw(msgspec.json.encode(event))
    second = await queue.join(large, nothing)
    queue.go_on.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    reported = [id_ for id_, outcome in zip(("first", "large"), outcomes, strict=True) if outcome is Outcome.STORED]
    assert await ids(sql) == reported


async def test_an_event_whose_handler_changes_the_encoding_leaves_the_next_as_it_is(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    queue = Queue(store)
    first = await queue.begin("set local client_encoding = 'LATIN1'")
    umlaut = arrival(2, "second")
    umlaut.raw = msgspec.Raw(msgspec.json.encode({**msgspec.json.decode(umlaut.raw), "data": "ä€"}))
    second = await queue.join(umlaut, nothing)
    queue.go_on.set()
    assert (await first, await second) == (Outcome.STORED, Outcome.STORED)
    assert await (await sql.execute("select data from events where id = 'second'")).fetchone() == ("ä€",)


async def test_an_encoding_that_a_handler_sets_does_not_reach_the_next_event(store: PostgresEvents) -> None:
    encodings = []

    async def change(tx: Transaction) -> None:
        encodings.append(await tx.fetch_one("select set_config('client_encoding', 'LATIN1', false) as now"))

    async def look(tx: Transaction) -> None:
        encodings.append(await tx.fetch_one("select current_setting('client_encoding') as now"))

    await store.process(arrival(1, "first"), change)
    await store.process(arrival(2, "second"), look)
    assert encodings == [{"now": "LATIN1"}, {"now": "UTF8"}]


async def test_the_encoding_in_which_a_statement_was_written_is_not_that_of_the_next_event(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    query = f'insert into "{schema}".written values (%s)'

    async def write_in_latin(tx: Transaction) -> None:
        await tx.execute("set local client_encoding = 'LATIN1'")
        await write(tx)

    async def write(tx: Transaction) -> None:
        await tx.execute(query, ("\u00e4",))

    await sql.execute("create table written (text text)")
    await store.process(arrival(1, "first"), write_in_latin)
    await store.process(arrival(2, "second"), write)
    assert await (await sql.execute("select text from written")).fetchall() == [("\u00e4",), ("\u00e4",)]


async def test_what_a_server_says_behind_its_answer_to_commit_changes_nothing(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_more(
        connection: PostgresConnection, message: bytes, deadline_s: float, *, commits: bool
    ) -> list[PGresult]:
        more = message + b"; select 1 / 0" if message == b"commit" else message
        return await send(connection, more, deadline_s, commits=commits)

    monkeypatch.setattr(handover, "send", send_more)
    assert await store.process(arrival(1, "first"), nothing) is Outcome.STORED
    assert await ids(sql) == ["first"]


async def test_an_event_that_cannot_be_stored_is_no_trouble_of_the_one_before(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    queue = Queue(store)
    first = await queue.begin()
    refused = arrival(2, "refused")
    refused.raw = msgspec.Raw(msgspec.json.encode({**msgspec.json.decode(refused.raw), "data": "\0"}))
    second = await queue.join(refused, nothing)
    third = await queue.join(arrival(3, "third"), nothing)
    queue.go_on.set()
    assert await first is Outcome.STORED
    with pytest.raises(DataRefused):
        await second
    assert await third is Outcome.STORED
    assert await ids(sql) == ["first", "third"]


async def test_an_event_that_cannot_even_be_written_down_is_no_trouble_of_the_one_before(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    queue = Queue(store)
    first = await queue.begin()
    broken = arrival(2, "broken")
    broken.raw = msgspec.Raw(bytes(broken.raw).replace(b'{"n":2}', b'"\xff"'))
    second = await queue.join(broken, nothing)
    queue.go_on.set()
    assert await first is Outcome.STORED
    with pytest.raises((DataRefused, Unavailable)):
        await second
    assert await ids(sql) == ["first"]


async def test_a_connection_from_before_a_time_of_trouble_is_not_passed_on(store: PostgresEvents) -> None:
    pids = []

    async def tell(tx: Transaction) -> None:
        row = await tx.fetch_one("select pg_backend_pid() as pid")
        pids.append(row and row["pid"])

    queue = Queue(store)
    first = await queue.begin()
    second = await queue.join(arrival(2, "second"), tell)
    await store.renew()
    queue.go_on.set()
    assert (await first, await second) == (Outcome.STORED, Outcome.STORED)
    assert queue.pid not in pids


async def test_one_that_has_ended_before_does_not_run_and_the_next_goes_on(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any]
) -> None:
    async def never(tx: Transaction) -> None:
        raise AssertionError("it has ended before")

    queue = Queue(store)
    await store.insert([arrival(2, "second")])
    first = await queue.begin()
    second = await queue.join(arrival(2, "second"), never)
    third = await queue.join(arrival(3, "third"), nothing)
    queue.go_on.set()
    assert [await first, await second, await third] == [Outcome.STORED, Outcome.PRESENT, Outcome.STORED]


async def test_a_connection_that_is_lost_in_the_commit_is_no_trouble_of_the_next(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], schema: str
) -> None:
    await sql.execute(
        "create table deadly (n integer);"
        "create function die() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;"
        "create constraint trigger dies after insert on deadly deferrable initially deferred"
        " for each row execute function die()"
    )
    queue = Queue(store)
    first = await queue.begin(f'insert into "{schema}".deadly values (1)')
    second = await queue.join(arrival(2, "second"), nothing)
    queue.go_on.set()
    with pytest.raises(Unavailable):
        await first
    assert await second is Outcome.STORED
    assert await ids(sql) == ["second"]


async def test_those_that_share_a_transaction_get_their_turn_among_those_that_do_not(store: PostgresEvents) -> None:
    ended = []

    async def process(offset: int) -> None:
        await store.process(arrival(offset, str(offset)), nothing)
        ended.append(offset)

    async def process_together(offset: int) -> None:
        async def work(tx: Transaction, new: Any) -> None: ...

        await store.process_together([arrival(offset, str(offset))], work)
        ended.append(offset)

    queue = Queue(store)
    first = await queue.begin()
    async with asyncio.TaskGroup() as group:
        for offset in range(2, 20):
            group.create_task(process_together(offset) if offset == 4 else process(offset))
        await asyncio.sleep(0)
        queue.go_on.set()
    await first
    assert ended == sorted(ended)


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_is_cancelled_takes_no_place_and_no_row_with_it(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], seed: int
) -> None:
    draw = random.Random(seed)
    running = 0

    async def work(tx: Transaction) -> None:
        nonlocal running
        assert not running
        running += 1
        try:
            for _ in range(draw.randrange(3)):
                await tx.execute("select 1")
                await asyncio.sleep(0)
            if draw.random() < 0.1:
                raise ValueError("no")
        finally:
            running -= 1

    tasks = [asyncio.create_task(store.process(arrival(n, f"{n:03}"), work)) for n in range(1, 121)]
    while not all(task.done() for task in tasks):
        await asyncio.wait([task for task in tasks if not task.done()], return_when="FIRST_COMPLETED")
        for _ in range(draw.randrange(40)):
            await asyncio.sleep(0)
        waiting = [task for task in tasks if not task.done()]
        for task in draw.sample(waiting, min(len(waiting), draw.randrange(3))):
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    reported = {f"{n:03}" for n, result in enumerate(results, 1) if result is Outcome.STORED}
    maybe = {f"{n:03}" for n, result in enumerate(results, 1) if isinstance(result, asyncio.CancelledError)}
    stored = set(await ids(sql))
    assert reported <= stored <= reported | maybe
    assert Counter(map(type, results)).keys() <= {Outcome, ValueError, asyncio.CancelledError}
    async with asyncio.timeout(120):
        assert await store.process(arrival(500, "last"), nothing) is Outcome.STORED


async def test_the_answer_of_a_server_that_has_been_replaced_meanwhile_proves_nothing(store: PostgresEvents) -> None:
    async def be_replaced(tx: Transaction) -> None:
        store._db._handlers.incarnation = "that of another server"

    with pytest.raises(Unavailable, match="restarted or replaced meanwhile"):
        await store.process(arrival(1), be_replaced)
    assert await store.process(arrival(1), be_replaced) is Outcome.PRESENT
