"""Applications whose handlers run one SQL statement per event, or per batch."""

from __future__ import annotations

from oncecast import App, Event, Transaction

EFFECTS = "create table public.effects (id text not null, n integer not null)"

each = App("bench_each")
shared = App("bench_shared")
batch = App("bench_batch")


@each.on("tick")
@shared.on("tick", share_transaction=True)
async def write_effect(event: Event, tx: Transaction) -> None:
    """Write a row for an event."""
    await tx.execute("insert into public.effects values (%s, %s)", (event.id, len(event.raw_data)))


@batch.on_batch("tick", max_events=500)
async def write_effects(events: list[Event], tx: Transaction) -> None:
    """Write a row for each event with one statement."""
    await tx.execute(
        "insert into public.effects select * from unnest(%s::text[], %s::integer[])",
        ([event.id for event in events], [len(event.raw_data) for event in events]),
    )
