"""Accounts in order: what happens to an account has to happen in the order of the producer's journal.

The handler numbers what happens to an account, in a row of its own. What came through one opening of a journal has to be
numbered by its offsets; so does what stands in a journal as it is now, over all its openings. Between two journals,
and between a journal and a future of it that was lost (it was put back to a copy), no order is promised. Nor is it for
what was given up on and replayed.
Run it: `oncecast chaos --app oncecast.chaos.applications.accounts:app`
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TypedDict

from oncecast import Event, Listener, Transaction

ACCOUNTS = 40
FLAKY_SHARE = 0.02
BAD_SHARE = 0.002


class Change(TypedDict):
    """By how much the account's balance changes, in cents."""

    cents: int


app = Listener("accounts")


@app.on("account.changed", "account.flaky", "account.bad", ordered_by="subject")
async def change(change: Change, event: Event, tx: Transaction) -> None:
    """The next number of this account, and its new balance."""
    row = await tx.fetch_one(
        "insert into public.accounts as a values (%s, 1, %s) on conflict (account)"
        " do update set number = a.number + 1, cents = a.cents + excluded.cents returning number",
        (event.subject, change["cents"]),
    )
    await tx.execute(
        "insert into public.history values (%s, %s, %s)", (event.subject, row["number"] if row else None, event.id)
    )
    if event.type == "account.bad" or (event.type == "account.flaky" and random.random() < 0.5):
        raise RuntimeError("as it was told to")


def chaos_events(draw: random.Random) -> Iterator[Event]:
    """Changes of few accounts, without end."""
    while True:
        type_ = draw.choices(
            ("account.changed", "account.flaky", "account.bad"), (1 - FLAKY_SHARE - BAD_SHARE, FLAKY_SHARE, BAD_SHARE)
        )[0]
        yield Event.new(type_, Change(cents=draw.randint(-500, 500)), subject=f"account-{draw.randrange(ACCOUNTS)}")


_PLACES = """
    select h.account, h.number, e.id, e.journal, e.epoch, e."offset"
    from public.history h
    join accounts.events e using (id)
    left join accounts.dead_letters d on d.source = e.source and d.id = e.id
    where d.id is null
"""
_OUT_OF_ORDER = """
select account, journal, epoch, "offset" as "offset", number, before as "offset before" from (
    select *, lag("offset") over (partition by {partition} order by number) as before from places) p
where before > "offset"
"""

chaos_setup = """
create table public.accounts (account text primary key, number bigint not null, cents bigint not null);
create table public.history (account text, number bigint, id text not null unique, primary key (account, number))
"""
chaos_may_die = ("account.flaky", "account.bad")
chaos_checks = {
    "order within an opening": f"with places as ({_PLACES}) "
    + _OUT_OF_ORDER.format(partition="account, journal, epoch"),
    "order within a journal as it is now": f"""
        with openings as (
            select journal, o->>0 as epoch, (o->>1)::bigint as first,
                lead((o->>1)::bigint) over (partition by journal order by n) as next
            from accounts.cursors, jsonb_array_elements(epochs) with ordinality as e (o, n)),
        places as (
            select p.* from ({_PLACES}) p join openings o using (journal, epoch)
            where "offset" >= o.first and (o.next is null or "offset" < o.next))
        """
    + _OUT_OF_ORDER.format(partition="account, journal"),
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
