"""TestListener tells what a listener would make of an event, the same in memory and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from oncecast import Event, Listener, Reject, Retry, SyncTransaction, Transaction
from oncecast.core.errors import DataInvalid, OncecastError
from oncecast.testing import MakeTestListener, Statement, TestListener, Unanswered


@dataclass
class Order:
    sku: str
    quantity: int = 1


SHOP = Listener("shop")


@SHOP.on("order.created")
async def reserve(order: Order, event: Event, tx: Transaction) -> None:
    if order.quantity > 100:
        raise Reject("too many")
    if order.quantity > 10:
        raise ValueError("a fault of the handler")
    await tx.execute("insert into reserved values (%s, %s)", (order.sku, order.quantity))
    await event.emit(Event.new("order.reserved", {"sku": order.sku}))


@SHOP.on("order.reserved")
def confirm(event: Event, tx: SyncTransaction) -> None:
    event.emit(Event.new("order.confirmed", event.data))


@SHOP.on("swallowing")
async def swallow(tx: Transaction) -> None:
    with contextlib.suppress(psycopg.Error, LookupError):
        await tx.execute("insert into nowhere values (1)")


@SHOP.on("surviving")
async def survive(tx: Transaction) -> None:
    try:
        async with tx.savepoint():
            await tx.execute("insert into nowhere values (1)")
    except (psycopg.Error, LookupError):
        await tx.execute("insert into reserved values ('survived', 1)")


@SHOP.on_batch("tick", max_events=8)
async def count(numbers: list[int], tx: Transaction) -> None:
    if 3 in numbers:
        raise ValueError("three")
    await tx.execute("insert into reserved values ('ticks', %s)", (len(numbers),))


@SHOP.on("later")
async def later(event: Event) -> None:
    raise Retry("not yet", after="30s")


@pytest.fixture(params=["memory", "postgres"])
async def t(request: pytest.FixtureRequest) -> AsyncIterator[TestListener]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else False
    async with TestListener(SHOP, postgres=url) as listener:
        if url:
            await listener.execute("create table reserved (sku text, quantity integer)")
        else:
            listener.answer("insert into nowhere", LookupError("no such table"))
        yield listener


async def test_an_event_that_its_handler_takes_is_stored_with_what_it_emits(t: TestListener) -> None:
    result = await t.send(Event.new("order.created", {"sku": "A"}))
    assert (result.outcome, result.attempts, result.error, result.waits_s) == ("stored", 1, None, [])
    assert [(event.type, event.data) for event in result.emitted] == [("order.reserved", {"sku": "A"})]
    assert t.emitted == result.emitted


async def test_what_is_emitted_is_followed_where_that_is_asked_for(t: TestListener) -> None:
    await t.send({"type": "order.created", "sku": "A"}, follow=True)
    assert [event.type for event in t.emitted] == ["order.reserved", "order.confirmed"]


async def test_a_failing_handler_is_tried_three_times_and_nothing_waits_in_real_time(t: TestListener) -> None:
    result = await t.send({"type": "order.created", "sku": "A", "quantity": 11})
    assert (result.outcome, result.attempts, result.waits_s) == ("dead", 3, [2.0, 2.0])
    assert result.failures == ["ValueError: a fault of the handler"] * 3
    assert result.emitted == []
    with pytest.raises(ValueError, match="a fault of the handler"):
        result.raise_if_dead()


async def test_a_rejected_event_is_dead_at_once(t: TestListener) -> None:
    result = await t.send({"type": "order.created", "sku": "A", "quantity": 101})
    assert (result.outcome, result.attempts, result.error) == ("dead", 1, "Reject: too many")


async def test_data_that_does_not_fit_is_dead_at_once_and_names_its_path(t: TestListener) -> None:
    result = await t.send({"type": "order.created", "sku": 7})
    assert result.outcome == "dead"
    assert isinstance(result.exception, DataInvalid)
    assert "$.sku" in str(result.error)


async def test_a_handler_that_asks_for_time_is_not_waited_for(t: TestListener) -> None:
    result = await t.send({"type": "later"})
    assert (result.outcome, result.attempts, result.waits_s) == ("dead", 3, [30.0, 30.0])


async def test_the_same_event_again_is_a_duplicate_and_other_content_a_conflict(t: TestListener) -> None:
    event = Event.new("order.created", {"sku": "A"}, id="1")
    assert [(await t.send(event)).outcome for _ in range(2)] == ["stored", "duplicate"]
    assert (await t.send(Event.new("order.created", {"sku": "B"}, id="1"))).outcome == "conflict"


async def test_a_swallowed_sql_error_fails_the_attempt_and_a_savepoint_survives_it(t: TestListener) -> None:
    swallowed = await t.send({"type": "swallowing"})
    assert swallowed.outcome == "dead"
    assert "swallowed an SQL error" in str(swallowed.error)
    assert (await t.send({"type": "surviving"})).outcome == "stored"


async def test_a_batch_is_halved_until_the_bad_event_stands_alone(t: TestListener) -> None:
    results = await t.send_all([Event.new("tick", n) for n in range(8)])
    assert [result.outcome for result in results] == ["stored"] * 3 + ["dead"] + ["stored"] * 4
    assert results[3].attempts == 3


async def test_an_event_that_no_producer_would_accept_is_refused(t: TestListener) -> None:
    with pytest.raises(ValueError, match="cannot be published"):
        await t.send(Event.new(""))


async def test_on_a_real_postgresql_the_effects_are_there(postgres_url: str) -> None:
    async with TestListener(SHOP, postgres=postgres_url) as t:
        await t.execute("create table reserved (sku text, quantity integer)")
        await t.send({"type": "order.created", "sku": "A", "quantity": 2})
        await t.send({"type": "order.created", "sku": "B", "quantity": 11})
        assert await t.fetch_all("select * from reserved") == [{"sku": "A", "quantity": 2}]


async def test_every_test_listener_has_a_database_of_its_own_that_is_gone_afterwards(postgres_url: str) -> None:
    for _ in range(2):
        async with TestListener(SHOP, postgres=postgres_url) as t:
            await t.execute("create table reserved (sku text)")
            (row,) = await t.fetch_all("select current_database() as name")
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        cursor = await connection.execute("select 1 from pg_database where datname = %s", (row["name"],))
        assert await cursor.fetchone() is None


# --- in memory ----------------------------------------------------------------------------------------------


async def test_statements_are_written_down_with_their_parameters() -> None:
    async with TestListener(SHOP) as t:
        result = await t.send({"type": "order.created", "sku": "A", "quantity": 2})
        assert result.statements == t.statements == [Statement("insert into reserved values (%s, %s)", ("A", 2))]


async def test_rows_row_counts_and_errors_can_be_told() -> None:
    app, found = Listener(), []

    @app.on("t")
    async def handler(tx: Transaction) -> None:
        found.append(await tx.fetch_one("select  free from stock\n where sku = %s", ("A",)))
        found.append(await tx.fetch_all("select sku from stock"))
        found.append(await tx.execute("update stock set free = 0"))
        await tx.execute("delete from stock")

    async with TestListener(app) as t:
        t.answer("select free from stock where sku", lambda params: [{"free": 3, "sku": params[0]}])
        t.answer("select sku", [])
        t.answer("update stock", 0)
        t.answer("delete", psycopg.errors.ForeignKeyViolation("still ordered"))
        result = await t.send({"type": "t"})
    assert found[:3] == [{"free": 3, "sku": "A"}, [], 0]
    assert "still ordered" in str(result.error)


async def test_rows_that_nobody_has_told_say_how_to_tell_them() -> None:
    app = Listener()

    @app.on("t")
    async def handler(tx: Transaction) -> None:
        await tx.fetch_one("select 1")

    async with TestListener(app) as t:
        with pytest.raises(Unanswered, match=r"t\.answer\('select 1'"):
            await t.send({"type": "t"})


class Mail:
    """A state."""

    def __init__(self) -> None:
        self.sent: list[str] = []


async def test_the_lifespan_runs_or_a_state_stands_in_for_it() -> None:
    ended = []

    async def lifespan() -> AsyncIterator[Mail]:
        mail = Mail()
        yield mail
        ended.append(mail)

    app = Listener(lifespan=lifespan)

    @app.on("t")
    async def handler(mail: Mail, event: Event) -> None:
        mail.sent.append(event.id)

    async with TestListener(app) as t:
        await t.send({"type": "t", "id": "1"})
    (mail,) = ended
    assert mail.sent == ["1"]
    mine = Mail()
    async with TestListener(app, state=mine) as t:
        await t.send({"type": "t", "id": "2"})
    assert (mine.sent, len(ended)) == (["2"], 1)


async def test_a_handler_that_takes_too_long_is_ended_by_its_time() -> None:
    app = Listener()

    @app.on("t")
    async def handler() -> None:
        await asyncio.Event().wait()

    async with TestListener(app, timeout_s=0.01, event_attempts=1) as t:
        assert "TimeoutError" in str((await t.send({"type": "t"})).error)


async def test_ordered_events_run_in_their_order_though_one_is_tried_again() -> None:
    app, seen = Listener(), []

    @app.on("t", ordered_by="subject")
    async def handler(event: Event) -> None:
        seen.append(event.id)
        if event.id == "1" and len(seen) < 3:
            raise ValueError("again")

    async with TestListener(app) as t:
        await t.send_all([Event.new("t", id=str(n), subject="a") for n in (1, 2, 3)])
    assert [seen.index(id_) for id_ in "123"] == sorted(seen.index(id_) for id_ in "123")
    assert seen[-2:] == ["2", "3"]


async def test_handlers_that_emit_for_each_other_without_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncecast.testing.listener.FOLLOWED_MAX", 10)
    app = Listener()

    @app.on("t")
    async def handler(event: Event) -> None:
        event.emit(Event.new("t"))

    async with TestListener(app) as t:
        with pytest.raises(OncecastError, match="emit for each other"):
            await t.send({"type": "t"}, follow=True)


async def test_sql_of_the_tests_own_needs_a_real_postgresql() -> None:
    async with TestListener(SHOP) as t:
        with pytest.raises(OncecastError, match="postgres=True"):
            await t.fetch_all("select 1")


def test_the_fixture_serves_tests_that_are_no_coroutines(test_listener: MakeTestListener) -> None:
    t = test_listener(SHOP)
    assert t.send({"type": "order.created", "sku": "A"}, follow=True).is_stored
    assert [event.type for event in t.emitted] == ["order.reserved", "order.confirmed"]
    assert len(t.statements) == 1


def test_an_embedded_postgresql_comes_by_one_argument(test_listener: MakeTestListener) -> None:
    t = test_listener(SHOP, postgres=True)
    t.execute("create table reserved (sku text, quantity integer)")
    assert t.send_all([{"type": "order.created", "sku": "A"}, {"type": "order.created", "sku": "B"}])[1].is_stored
    assert t.fetch_all("select sku from reserved order by 1") == [{"sku": "A"}, {"sku": "B"}]


def test_what_is_told_is_of_the_right_kind(test_listener: MakeTestListener) -> None:
    t: Any = test_listener(SHOP)
    t.answer("insert into reserved", ValueError("told"))
    assert "told" in t.send({"type": "order.created", "sku": "A"}).error
