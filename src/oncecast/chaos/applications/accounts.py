"""Accounts in order: changes of an account must be applied in the order of the producer's journal.

The handler numbers the changes of each account, one row per change. Within one epoch of a journal the numbers must
follow the offsets; so must they in a journal's present history, over all epochs. No order is promised between two
journals, with divergent history (the journal was restored from a copy), or for replayed dead letters.
Run it: `oncecast chaos --app oncecast.chaos.applications.accounts:app`
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TypedDict

from oncecast import App, Event, Transaction

ACCOUNTS = 40
FLAKY_SHARE = 0.02
BAD_SHARE = 0.002


class Change(TypedDict):
    """The change of an account's balance, in cents."""

    cents: int


app = App("accounts")


@app.on("account.changed", "account.flaky", "account.bad", ordered_by="subject")
async def change(change: Change, event: Event, tx: Transaction) -> None:
    """Write the next number of this account and its new balance."""
    row = await tx.fetch_one(
        "insert into public.accounts as a values (%s, 1, %s) on conflict (account)"
        " do update set number = a.number + 1, cents = a.cents + excluded.cents returning number",
        (event.subject, change["cents"]),
    )
    await tx.execute(
        "insert into public.history values (%s, %s, %s)", (event.subject, row["number"] if row else None, event.id)
    )
    if event.type == "account.bad" or (event.type == "account.flaky" and random.random() < 0.5):
        raise RuntimeError("fails on purpose")


def chaos_events(draw: random.Random) -> Iterator[Event]:
    """Yield changes of a few accounts, without end."""
    while True:
        type_ = draw.choices(
            ("account.changed", "account.flaky", "account.bad"), (1 - FLAKY_SHARE - BAD_SHARE, FLAKY_SHARE, BAD_SHARE)
        )[0]
        yield Event.new(type_, Change(cents=draw.randint(-500, 500)), subject=f"account-{draw.randrange(ACCOUNTS)}")


chaos_setup = """
create table public.accounts (account text primary key, number bigint not null, cents bigint not null);
create table public.history (account text, number bigint, id text not null unique, primary key (account, number))
"""
chaos_may_die = ("account.flaky", "account.bad")
chaos_checks = {
    "order within an opening": """
        select * from (
            select h.account, journal, epoch, h.number, "offset",
                lag("offset") over (partition by h.account, journal, epoch order by h.number) as "offset before"
            from public.history h join accounts.events e using (id)
            where not exists (select from accounts.dead_letters d where d.id = h.id)) places
        where "offset before" > "offset"
    """,
    "order within a journal as it is now": """
        with openings as (
            select journal, opening->>0 as epoch, (opening->>1)::bigint as first,
                lead((opening->>1)::bigint) over (partition by journal order by n) as next
            from accounts.cursors, jsonb_array_elements(epochs) with ordinality as e (opening, n))
        select * from (
            select h.account, journal, h.number, "offset",
                lag("offset") over (partition by h.account, journal order by h.number) as "offset before"
            from public.history h join accounts.events e using (id) join openings o using (journal, epoch)
            where "offset" >= o.first and (o.next is null or "offset" < o.next)
                and not exists (select from accounts.dead_letters d where d.id = h.id)) places
        where "offset before" > "offset"
    """,
    "history equals stored": """
        select account, id, number from public.history full join (
            select subject as account, id, 1 as there from accounts.events where status = 'stored') e
        using (account, id) where number is null or there is null
    """,
    "balance equals stored": """
        select account, a.cents, e.cents as stored, number, events from public.accounts a full join (
            select subject as account, sum((data->>'cents')::bigint) as cents, count(*) as events
            from accounts.events where status = 'stored' group by subject) e using (account)
        where (a.cents, number) is distinct from (e.cents, events)
    """,
}
