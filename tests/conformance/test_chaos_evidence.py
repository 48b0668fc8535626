"""What `oncecast chaos --app` asks PostgreSQL: follow-ups are recorded, and checks tell what is wrong."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import psycopg
import pytest
from psycopg import sql

from oncecast.app.application import App
from oncecast.chaos.applications import accounts, chain, stock
from oncecast.chaos.checks import run_checks
from oncecast.chaos.evidence import collect, record_emissions
from oncecast.chaos.publishing import Publications
from oncecast.chaos.subject import Subject
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import ConfigError
from oncecast.core.event import follow_up_id
from oncecast.event import Event
from oncecast.stores.postgres import Database

Connection = psycopg.AsyncConnection[Any]
EPOCHS = '[["e1", 1], ["e2", 100]]'


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A database of this test's own: the tables of applications have fixed names."""
    name = f"chaos_{uuid.uuid4().hex[:12]}"
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield psycopg.conninfo.make_conninfo(postgres_url, dbname=name)
        await connection.execute(sql.SQL("drop database {} (force)").format(sql.Identifier(name)))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """To that database."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


async def migrate(url: str, schema: str) -> None:
    """The tables of a group."""
    database = Database(url, SYSTEM_CLOCK, schema=schema, instance="test", token="t")
    await database.migrate()
    await database.close()


async def store(
    connection: Connection, schema: str, event: Event, *, offset: int = 1, epoch: str = "e1", status: str = "stored"
) -> None:
    """A row as a listener would write it."""
    statement = sql.SQL(
        'insert into {}.events (source, id, type, subject, data, status, journal, epoch, "offset", listener,'
        " attempts, accepted_at) values (%s, %s, %s, %s, %s, %s, 'j', %s, %s, '', 1, now())"
    )
    data = event.raw_data.decode() or None
    row = (event.source, event.id, event.type, event.subject, data, status, epoch, offset)
    await connection.execute(statement.format(sql.Identifier(schema)), row)


async def failed(connection: Connection, application: Any) -> list[str]:
    """The names of the application's checks that fail just now."""
    return [check.name for check in await run_checks(connection, application.chaos_checks)]


async def test_follow_ups_are_recorded_with_the_transaction_that_emits_them_and_judged_by_their_cause(
    database_url: str, connection: Connection
) -> None:
    await migrate(database_url, "shop")
    await record_emissions(connection, "shop")
    app = App("shop")

    async def reserve(event: Event) -> None:
        """A handler."""

    reserve.__qualname__ = "reserve"
    app.on("order")(reserve)
    order = Event.new("order")
    await store(connection, "shop", order)
    caused = Event.new("reserved", id=follow_up_id(order.source, order.id, "shop", "reserve", 0))
    orphan = Event.new("reserved", id=follow_up_id(order.source, "another", "shop", "reserve", 0))
    insert = "insert into shop.outbox (event) values (%s)"
    await connection.execute(insert, (caused.to_json(),))
    await connection.execute(insert, (orphan.to_json(),))
    await connection.execute("delete from shop.outbox")
    async with connection.transaction(force_rollback=True):
        await connection.execute(insert, (Event.new("rolled back").to_json(),))
    await store(connection, "shop", caused)
    subject = Subject(app=app, target="shop:app", events=lambda draw: iter(()))
    found = await collect(connection, subject, Publications({order.id}, {order.id}), (), ())
    assert found.emitted == {caused.id: 1, orphan.id: 1}
    assert set(found.caused) == {caused.id}
    assert (found.rows, found.left_in_outbox) == ({order.id: "stored", caused.id: "stored"}, 0)


async def test_a_check_that_is_not_a_query_is_reported_by_name_and_no_check_can_write(connection: Connection) -> None:
    await connection.execute("create table t (n integer)")
    for query, message in {
        "selec 1": "PostgreSQL does not take chaos_checks['c']: syntax error",
        "select * from nowhere": "PostgreSQL does not take chaos_checks['c']: relation \"nowhere\" does not exist",
        "insert into t values (1) returning n": "PostgreSQL does not take chaos_checks['c']: cannot execute INSERT",
        "set timezone = 'UTC'": "chaos_checks['c'] is no query: it returns no rows, not even none",
    }.items():
        with pytest.raises(ConfigError) as caught:
            await run_checks(connection, {"c": query})
        assert str(caught.value).startswith(message)
    assert await (await connection.execute("select * from t")).fetchall() == []


async def test_each_row_of_a_check_is_a_violation_and_the_first_are_shown(connection: Connection) -> None:
    none, some = (
        await run_checks(connection, {"none": "select 1 where false"}),
        "select n from generate_series(1, 99) n",
    )
    assert none == []
    (check,) = await run_checks(connection, {"some": some})
    assert (check.name, check.count, check.rows[0], len(check.rows)) == ("some", 99, {"n": "1"}, 10)


async def test_stock_tells_a_reservation_too_many_or_too_few(database_url: str, connection: Connection) -> None:
    await connection.execute(stock.chaos_setup.encode())
    await migrate(database_url, "stock")
    order = Event.new("order.shared", stock.Order(sku="a", quantity=2, flaky=False))
    await store(connection, "stock", order)
    assert await failed(connection, stock) == ["reserved equals stored"]
    for events, quantity, found in (
        (1, 2, []),
        (1, 3, ["reserved equals stored"]),
        (2, 2, ["reserved equals stored"]),
    ):
        await connection.execute("delete from public.reserved")
        await connection.execute(stock.RESERVE, ("shared", "a", events, quantity))
        assert await failed(connection, stock) == found


async def test_accounts_report_changes_out_of_order_within_an_epoch_and_across_two(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(accounts.chaos_setup.encode())
    await migrate(database_url, "accounts")
    place = 'insert into accounts.cursors (journal, epoch, "offset", epochs) values (%s, %s, %s, %s)'
    await connection.execute(place, ("j", "e2", 200, EPOCHS))
    places = [("e1", 5), ("e1", 7), ("lost", 150), ("lost", 160), ("e2", 120)]
    events = [Event.new("account.changed", accounts.Change(cents=5), subject="a") for _ in places]
    for event, (epoch, offset) in zip(events, places, strict=True):
        await store(connection, "accounts", event, epoch=epoch, offset=offset)

    async def happened(*order: int) -> list[str]:
        """What the checks say if the events happened in this order."""
        await connection.execute("delete from public.history")
        for number, index in enumerate(order, 1):
            row = ("a", number, events[index].id)
            await connection.execute("insert into public.history values (%s, %s, %s)", row)
        return await failed(connection, accounts)

    await connection.execute("insert into public.accounts values ('a', 5, 25)")
    assert await happened(0, 1, 2, 3, 4) == []
    assert await happened(2, 0, 1, 4, 3) == [], "a divergent history has no order with the events that replaced it"
    within, over = "order within an opening", "order within a journal as it is now"
    assert await happened(1, 0, 2, 3, 4) == [within, over]
    assert await happened(0, 1, 3, 2, 4) == [within]
    assert await happened(0, 4, 1, 2, 3) == [over]
    assert await happened(0, 1, 2, 3) == ["history equals stored"]
    await happened(0, 1, 2, 3, 4)
    await connection.execute("update public.accounts set cents = 20")
    assert await failed(connection, accounts) == ["balance equals stored"]


async def test_a_chain_tells_a_step_that_is_missing_doubled_without_cause_or_out_of_order(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(chain.chaos_setup.encode())
    await migrate(database_url, "chain")
    order = Event.new("order.created", chain.Order(items=2, flaky=False))
    items = [chain.Reservation(order=order.id, item=item) for item in range(2)]
    steps = [Event.new(f"item.{step}", item) for step in ("reserved", "confirmed") for item in items]
    for offset, event in enumerate([order, *steps], 1):
        await store(connection, "chain", event, offset=offset)
    await connection.execute(chain.NOTE, ("order", order.id))
    for step in ("reserved", "confirmed"):
        for item in range(2):
            await connection.execute(chain.NOTE, (step, f"{order.id} {item}"))
    assert await failed(connection, chain) == []

    async def failed_after(statement: str, *params: object) -> list[str]:
        """What the checks say when this had been done."""
        await connection.execute("begin")
        await connection.execute(statement.encode(), params)
        try:
            return await failed(connection, chain)
        finally:
            await connection.execute("rollback")

    every = "each order's items, and no others"
    by_event = "each step was taken by an event"
    remove = "delete from chain.events where id = %s"
    assert await failed_after(remove, steps[3].id) == [every, by_event]
    assert await failed_after(remove, order.id) == [every, by_event]
    assert await failed_after("update public.steps set times = 2 where step = 'order'") == [
        "each step was taken once"
    ]
    swap = 'update chain.events set "offset" = 10 - "offset" where type = %s'
    assert await failed_after(swap, "item.reserved") == ["the items of an order are reserved in their order"]


@pytest.mark.parametrize("application", [stock, chain, accounts])
def test_events_of_the_applications_are_drawn_by_seed(application: Any) -> None:
    first, again = (
        [(event.type, event.data) for event in islice(application.chaos_events(random.Random(3)), 200)]
        for _ in range(2)
    )
    assert first == again
    assert len({type_ for type_, _ in first}) > 1
