"""Reserve stock that never falls below zero, with any number of listeners.

This example shows data as a dataclass; one statement that checks and updates, so that no other handler can interfere;
`Reject` for events that can never succeed, and `Retry` for events that may succeed later.

    oncecast up --app stock:app --app-dir examples
    oncecast send examples/stock.ndjson
    oncecast sql "select sku, free, (select sum(quantity)::int from reservations r where r.sku = s.sku) as reserved
                  from stock s order by sku"

A delivery may arrive after the order that waits for it. An order that is still sold out at its last attempt becomes a
dead letter. Deliver, then run `oncecast dead-letters replay --all`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tables import tables

from oncecast import App, Event, Reject, Retry, Transaction

TABLES = """
    create table if not exists stock (sku text primary key, free bigint not null check (free >= 0));
    create table if not exists reservations (order_id text primary key, sku text not null, quantity bigint not null);
"""
CATALOGUE = ("A-1", "B-2", "C-3", "D-4")

app = App("stock", lifespan=tables(TABLES))


@dataclass
class Goods:
    """A quantity of an article."""

    sku: str
    quantity: int


@app.on("order.created", "stock.delivered")
async def check(goods: Goods) -> None:
    """Check the data. Handlers run in the order of their definition, so this one runs before the others."""
    if goods.sku not in CATALOGUE:
        raise Reject(f"there is no {goods.sku!r} in the catalogue")
    if goods.quantity < 1:
        raise Reject(f"a quantity of {goods.quantity}")


@app.on("stock.delivered")
async def put_in(goods: Goods, tx: Transaction) -> None:
    """Add the delivery to the free stock."""
    await tx.execute(
        "insert into stock as s (sku, free) values (%s, %s)"
        " on conflict (sku) do update set free = s.free + excluded.free",
        (goods.sku, goods.quantity),
    )


@app.on("order.created")
async def reserve(goods: Goods, event: Event, tx: Transaction) -> None:
    """Take from the free stock if there is enough. The row is locked until the event ends."""
    taken = await tx.execute(
        "update stock set free = free - %(n)s where sku = %(sku)s and free >= %(n)s",
        {"n": goods.quantity, "sku": goods.sku},
    )
    if not taken:
        raise Retry(f"{goods.sku} is sold out for now", after="2s")
    await tx.execute(
        "insert into reservations (order_id, sku, quantity) values (%s, %s, %s)",
        (event.id, goods.sku, goods.quantity),
    )
