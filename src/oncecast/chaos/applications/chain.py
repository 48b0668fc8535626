"""A chain of follow-ups: an order reserves each of its items, and each reservation is confirmed.

Each follow-up must be emitted exactly once, none without its cause, and those of one cause in order.
Run it: `oncecast chaos --app oncecast.chaos.applications.chain:app`
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import TypedDict

import psycopg

from oncecast import App, Event, Transaction

ITEMS_MAX = 3
NOTE = "insert into public.steps as s values (%s, %s, 1) on conflict (step, name) do update set times = s.times + 1"


class Order(TypedDict):
    """The number of items to reserve; the handler of a flaky order sometimes fails after it has emitted."""

    items: int
    flaky: bool


class Reservation(TypedDict):
    """Item number `item`, from 0, of the order with this id."""

    order: str
    item: int


app = App("chain")


@app.on("order.created", "order.flaky")
async def reserve(order: Order, event: Event, tx: Transaction) -> None:
    """Emit a follow-up for each item; one whose savepoint is rolled back does not count."""
    await tx.execute(NOTE, ("order", event.id))
    for item in range(order["items"]):
        with contextlib.suppress(psycopg.Error):
            async with tx.savepoint():
                await event.emit(Event.new("item.withdrawn", Reservation(order=event.id, item=item)))
                await tx.execute("select 1 / 0")
        await event.emit(Event.new("item.reserved", Reservation(order=event.id, item=item)))
        if order["flaky"] and random.random() < 0.4:
            raise RuntimeError("by chance")


@app.on_batch("item.reserved", max_events=50)
async def confirm(reservations: list[Reservation], events: list[Event], tx: Transaction) -> None:
    """Confirm many reservations in one transaction; sometimes one fails and rolls all of them back."""
    for reservation, event in zip(reservations, events, strict=True):
        await tx.execute(NOTE, ("reserved", _name(reservation)))
        event.emit(Event.new("item.confirmed", reservation))
    if len(events) > 1 and random.random() < 0.1:
        raise RuntimeError("by chance, but never to one alone")


@app.on("item.confirmed", share_transaction=True)
async def note(reservation: Reservation, tx: Transaction) -> None:
    """Record the end of the chain."""
    await tx.execute(NOTE, ("confirmed", _name(reservation)))


def _name(reservation: Reservation) -> str:
    return f"{reservation['order']} {reservation['item']}"


def chaos_events(draw: random.Random) -> Iterator[Event]:
    """Yield orders without end."""
    while True:
        flaky = draw.random() < 0.05
        order = Order(items=draw.randint(1, ITEMS_MAX), flaky=flaky)
        yield Event.new("order.flaky" if flaky else "order.created", order)


chaos_setup = "create table public.steps (step text, name text, times integer not null, primary key (step, name))"
chaos_may_die = ("order.flaky",)
chaos_checks = {
    "each step was taken once": "select * from public.steps where times <> 1",
    "each order's items, and no others": """
        with wanted as (
            select 'item.' || step as type, id || ' ' || item as name
            from chain.events, generate_series(0, (data->>'items')::integer - 1) as item,
                unnest(array['reserved', 'confirmed']) as step
            where type like 'order.%' and status = 'stored'),
        there as (
            select type, (data->>'order') || ' ' || (data->>'item') as name
            from chain.events where type like 'item.%' and status = 'stored')
        (select 'missing' as what, * from (select * from wanted except all select * from there) m)
        union all
        (select 'too many', * from (select * from there except all select * from wanted) t)
    """,
    "each step was taken by an event": """
        select step, name, type from public.steps full join (
            select split_part(type, '.', 2) as step, (data->>'order') || ' ' || (data->>'item') as name, type
            from chain.events where type like 'item.%' and status = 'stored'
            union all
            select 'order', id, type from chain.events where type like 'order.%' and status = 'stored'
        ) e using (step, name)
        where times is null or type is null
    """,
    "the items of an order are reserved in their order": """
        select data->>'order' as "order", journal, epoch, array_agg(data->>'item' order by "offset") as items
        from chain.events where type = 'item.reserved' group by 1, 2, 3
        having array_agg((data->>'item')::integer order by "offset")
            <> array_agg((data->>'item')::integer order by (data->>'item')::integer)
    """,
}
