"""TestListener tells what a listener would make of an event, the same in memory and on a real PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from oncecast import App, Event, Reject, Retry, SyncTransaction, Transaction
from oncecast.core.errors import DataInvalid
from oncecast.testing import TestListener


@dataclass
class Order:
    sku: str
    quantity: int = 1


SHOP = App("shop")


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
    with contextlib.suppress(psycopg.Error):
        await tx.execute("insert into nowhere values (1)")


@SHOP.on("surviving")
async def survive(tx: Transaction) -> None:
    try:
        async with tx.savepoint():
            await tx.execute("insert into nowhere values (1)")
    except psycopg.Error:
        await tx.execute("insert into reserved values ('survived', 1)")


@SHOP.on_batch("tick", max_events=8)
async def count(numbers: list[int], tx: Transaction) -> None:
    if 3 in numbers:
        raise ValueError("three")
    await tx.execute("insert into reserved values ('ticks', %s)", (len(numbers),))


@SHOP.on("later")
async def later(event: Event) -> None:
    raise Retry("not yet", after="30s")


@SHOP.on("shared", share_transaction=True)
async def write(number: int, tx: Transaction) -> None:
    await tx.execute("insert into reserved values ('shared', %s)", (number,))
    if number == 3:
        raise ValueError("three")


@SHOP.on("committing")
async def commit(tx: Transaction) -> None:
    await tx.execute("commit")


@SHOP.on("too few")
async def pass_too_few(tx: Transaction) -> None:
    await tx.execute("insert into reserved values (%s, %s)", ("A",))


@SHOP.on("no row")
async def touch_nothing(tx: Transaction) -> None:
    if await tx.execute("update reserved set quantity = 1 where sku = 'nowhere'") == 0:
        raise Reject("there is no such thing")


@SHOP.on("thread")
def survive_in_a_thread(data: dict[str, Any], tx: SyncTransaction) -> None:
    try:
        with tx.savepoint():
            tx.execute("insert into nowhere values (1)")
    except psycopg.Error:
        tx.execute("insert into reserved values (%(sku)s, 1)", data)


@pytest.fixture(params=["memory", "postgres"])
async def t(request: pytest.FixtureRequest) -> AsyncIterator[TestListener]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else False
    async with TestListener(SHOP, postgres=url) as listener:
        if url:
            await listener.execute("create table reserved (sku text, quantity integer)")
        else:
            listener.answer("insert into nowhere", psycopg.errors.UndefinedTable('relation "nowhere" does not exist'))
            listener.answer("update reserved", 0)
        yield listener


async def test_a_handled_event_is_stored_with_the_events_it_emits(t: TestListener) -> None:
    result = await t.send(Event.new("order.created", {"sku": "A"}))
    assert (result.outcome, result.attempts, result.error, result.waits_s) == ("stored", 1, None, [])
    assert [(event.type, event.data) for event in result.emitted] == [("order.reserved", {"sku": "A"})]
    assert t.emitted == result.emitted


async def test_emitted_events_are_processed_if_follow_is_set(t: TestListener) -> None:
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


async def test_an_event_twice_at_a_time_is_handled_once(t: TestListener) -> None:
    for type in ("order.created", "tick", "nobody's"):
        event = Event.new(type, {"sku": "A"} if type == "order.created" else 1)
        before = len(t.statements)
        assert [result.outcome for result in await t.send_all([event, event])] == ["stored", "duplicate"]
        assert len(t.statements) - before == (type != "nobody's")


async def test_events_that_share_a_transaction_run_alone_again_if_one_fails(t: TestListener) -> None:
    together = await t.send_all([Event.new("shared", n) for n in (1, 2)])
    insert = "insert into reserved values ('shared', %s)"
    assert [result.statements for result in together] == [[(insert, (1,)), (insert, (2,))]] * 2
    parted = await t.send_all([Event.new("shared", n) for n in (4, 3, 5)])
    assert [(result.outcome, result.attempts) for result in parted] == [("stored", 1), ("dead", 3), ("stored", 1)]
    assert parted[0].statements == [(insert, (4,))]


async def test_a_batch_is_one_call(t: TestListener) -> None:
    await t.send_all([Event.new("tick", n) for n in (1, 2, 4, 5)])
    assert t.statements == [("insert into reserved values ('ticks', %s)", (4,))]


async def test_an_event_without_a_handler_is_only_stored(t: TestListener) -> None:
    result = await t.send(Event.new("nobody's"))
    assert (result.outcome, result.attempts, result.handlers) == ("stored", 1, [])
    assert "no handler is for it" in repr(result)


async def test_a_handler_that_would_end_the_transaction_is_refused(t: TestListener) -> None:
    assert "may not run COMMIT" in str((await t.send(Event.new("committing"))).error)


async def test_parameters_that_do_not_fit_the_placeholders_are_refused(t: TestListener) -> None:
    assert "the query has 2 placeholders but 1 parameters were passed" in str(
        (await t.send(Event.new("too few"))).error
    )


async def test_the_row_count_of_a_statement_is_returned(t: TestListener) -> None:
    assert (await t.send(Event.new("no row"))).error == "Reject: there is no such thing"


async def test_a_plain_def_has_statements_and_savepoints_too(t: TestListener) -> None:
    result = await t.send(Event.new("thread", {"sku": "A"}))
    assert result.outcome == "stored"
    assert result.statements == [
        ("insert into nowhere values (1)", None),
        ("insert into reserved values (%(sku)s, 1)", {"sku": "A"}),
    ]


async def test_an_event_that_no_producer_would_accept_is_refused(t: TestListener) -> None:
    with pytest.raises(ValueError, match='"type" is empty'):
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
