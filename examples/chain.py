"""Pass an order from handler to handler: placed, reserved, confirmed.

This example shows `event.emit`, which publishes an event exactly once. The event commits with the handler's writes,
or not at all, and has the same id however often the handler runs. The table below has no unique column, so a step
that was done twice would be visible.

    oncecast up --app chain:app --app-dir examples
    oncecast send examples/chain.ndjson
    oncecast sql "select order_id, string_agg(step, ' → ' order by number) as steps from steps group by 1 order by 1"

`oncecast tail --earliest` shows the emitted events among the others: everyone can subscribe to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tables import tables

from oncecast import App, Event, Reject, Transaction

TABLES = """
    create table if not exists steps (
        number bigint generated always as identity, order_id text not null, step text not null);
"""

app = App("chain", lifespan=tables(TABLES))


@dataclass
class Order:
    """The data that every step passes on."""

    order_id: str
    quantity: int


@app.on("order.placed")
async def reserve(order: Order, event: Event, tx: Transaction) -> None:
    """Do the first step. If it fails, neither its writes nor its emitted event take effect."""
    await note(tx, order, "reserved")
    event.emit(Event.new("order.reserved", order, subject=order.order_id))
    if order.quantity < 1:
        raise Reject(f"order {order.order_id} is for {order.quantity}")


@app.on("order.reserved")
async def confirm(order: Order, event: Event, tx: Transaction) -> None:
    """Do the second step, on any listener."""
    await note(tx, order, "confirmed")
    event.emit(Event.new("order.confirmed", order, subject=order.order_id))


@app.on("order.confirmed")
async def celebrate(order: Order, tx: Transaction) -> None:
    """Do the last step."""
    await note(tx, order, "done")


async def note(tx: Transaction, order: Order, step: str) -> None:
    """Store a step. Handlers are functions, and share code as functions do."""
    await tx.execute("insert into steps (order_id, step) values (%s, %s)", (order.order_id, step))
