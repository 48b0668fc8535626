"""Reservations of stock, with each way to call a handler: the counters must equal the events.

Run it: `oncecast chaos --app oncecast.chaos.applications.stock:app`
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

from oncecast import App, Event, Reject, SyncTransaction, Transaction

SKUS = 20
"""Few, so that transactions wait for each other and sometimes deadlock."""
QUANTITY_MAX = 5
FLAKY_ONE_IN = 50
WAYS = {"alone": 30, "thread": 10, "shared": 30, "batch": 30}
"""The ways to call a handler, and their relative frequency."""

RESERVE = """
insert into public.reserved as r (way, sku, events, quantity) values (%s, %s, %s, %s)
on conflict (way, sku) do update set events = r.events + excluded.events, quantity = r.quantity + excluded.quantity
"""


class Order(TypedDict):
    """A reservation. The handler of a flaky one sometimes fails after it has written."""

    sku: str
    quantity: int
    flaky: bool


app = App("stock")


@app.on("order.alone", "flaky.alone")
async def reserve_alone(order: Order, tx: Transaction) -> None:
    """Reserve in one transaction per event."""
    await tx.execute(RESERVE, ("alone", order["sku"], 1, order["quantity"]))
    _fail_by_chance(order)


@app.on("order.thread", "flaky.thread")
def reserve_in_a_thread(order: Order, tx: SyncTransaction) -> None:
    """Reserve in a plain `def`."""
    tx.execute(RESERVE, ("thread", order["sku"], 1, order["quantity"]))
    _fail_by_chance(order)


@app.on("order.shared", "flaky.shared", share_transaction=True)
async def reserve_shared(order: Order, tx: Transaction) -> None:
    """Reserve with many events in one transaction."""
    await tx.execute(RESERVE, ("shared", order["sku"], 1, order["quantity"]))
    _fail_by_chance(order)


@app.on_batch("order.batch", "flaky.batch", max_events=200)
async def reserve_batch(orders: list[Order], tx: Transaction) -> None:
    """Reserve with many events in one call."""
    events = Counter(order["sku"] for order in orders)
    for sku in sorted(events):
        quantity = sum(order["quantity"] for order in orders if order["sku"] == sku)
        await tx.execute(RESERVE, ("batch", sku, events[sku], quantity))
    for order in orders:
        _fail_by_chance(order)


@app.on("impossible")
async def refuse(order: Order, tx: Transaction) -> None:
    """Write, then fail: the write must be rolled back."""
    await tx.execute(RESERVE, ("impossible", order["sku"], 1, order["quantity"]))
    raise Reject("nobody has that many")


def _fail_by_chance(order: Order) -> None:
    if order["flaky"] and random.random() < 0.4:
        raise RuntimeError("by chance")


def chaos_events(draw: random.Random) -> Iterator[Event]:
    """Yield orders of all kinds, without end."""
    while True:
        way, kind = draw.choices(list(WAYS), list(WAYS.values()))[0], draw.randrange(FLAKY_ONE_IN)
        type_ = {0: f"flaky.{way}", 1: "impossible"}.get(kind, f"order.{way}")
        order = Order(
            sku=f"sku-{draw.randrange(SKUS)}",
            quantity=draw.randint(1, QUANTITY_MAX),
            flaky=type_.startswith("flaky."),
        )
        yield Event.new(type_, order)


chaos_setup = """
create table public.reserved (
    way text, sku text, events bigint not null, quantity bigint not null, primary key (way, sku))
"""
chaos_may_die = ("impossible", "flaky.*")
chaos_checks = {
    "reserved equals stored": """
        select way, sku, r.events as reserved, s.events as stored, r.quantity as quantity, s.quantity as sold
        from public.reserved r full join (
            select split_part(type, '.', 2) as way, data->>'sku' as sku, count(*) as events,
                sum((data->>'quantity')::bigint) as quantity
            from stock.events where status = 'stored' group by 1, 2) s using (way, sku)
        where (r.events, r.quantity) is distinct from (s.events, s.quantity)
    """,
}
