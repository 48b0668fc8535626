"""An order that goes from handler to handler: placed, reserved, confirmed.

What it shows: `event.emit`, which publishes a follow-up exactly once. It commits with the handler's writes or not at
all, and it has the same id however often the handler has to run. No column below is unique, so that a step that was
done twice would be seen.

    oncecast up --app chain:app --app-dir examples
    oncecast send examples/chain.ndjson
    oncecast sql "select order_id, string_agg(step, ' → ' order by number) as steps from steps group by 1 order by 1"

`oncecast tail --earliest` shows the follow-ups among the other events: everybody can subscribe to them.
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
    """What travels along the chain."""

    order_id: str
    quantity: int


@app.on("order.placed")
async def reserve(order: Order, event: Event, tx: Transaction) -> None:
    """The first step. What it emits before it fails is not published, as what it writes is not written."""
    await note(tx, order, "reserved")
    event.emit(Event.new("order.reserved", order, subject=order.order_id))
    if order.quantity < 1:
        raise Reject(f"order {order.order_id} is for {order.quantity}")


@app.on("order.reserved")
async def confirm(order: Order, event: Event, tx: Transaction) -> None:
    """The second step, on whichever listener is first."""
    await note(tx, order, "confirmed")
    event.emit(Event.new("order.confirmed", order, subject=order.order_id))


@app.on("order.confirmed")
async def celebrate(order: Order, tx: Transaction) -> None:
    """The end of the chain."""
    await note(tx, order, "done")


async def note(tx: Transaction, order: Order, step: str) -> None:
    """Handlers are functions: they share code as functions do."""
    await tx.execute("insert into steps (order_id, step) values (%s, %s)", (order.order_id, step))
