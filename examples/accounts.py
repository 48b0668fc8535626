"""Book amounts to accounts, in the order of publication, on two listeners.

This example shows `ordered_by`. Events of one subject run one at a time, in the order of the producer's journal.
Events of different subjects run concurrently. A booking fails if the balance is too low, so a wrong order would be
visible.

    oncecast up --app accounts:app --app-dir examples
    oncecast send examples/accounts.ndjson
    oncecast sql "select account, balance, bookings from accounts order by account"
    oncecast sql "select account, number, event, amount, balance from bookings order by account, number"

A booking in a currency without a rate fails three times and becomes a dead letter. The later bookings of its account
wait until then; those of other accounts do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from tables import tables

from oncecast import App, Event, Reject, Transaction

TABLES = """
    create table if not exists accounts (
        account text primary key, balance bigint not null check (balance >= 0), bookings integer not null);
    create table if not exists bookings (
        account text, number integer, event text not null, amount bigint not null, balance bigint not null,
        primary key (account, number));
"""
RATES = {"EUR": 1, "DKK": 7}

app = App("accounts", lifespan=tables(TABLES))


@dataclass
class Booking:
    """An amount; negative amounts are withdrawals."""

    amount: int
    currency: str = "EUR"


@app.on("account.booked", ordered_by="subject")
async def book(booking: Booking, event: Event, tx: Transaction) -> None:
    """Add the amount to the balance, and store the balance after the booking."""
    if event.subject is None:
        raise Reject("a booking without an account: its subject is missing")
    amount = booking.amount // RATES[booking.currency]
    account = await tx.fetch_one("select balance, bookings from accounts where account = %s", (event.subject,))
    balance, number = (account["balance"], account["bookings"]) if account else (0, 0)
    if balance + amount < 0:
        raise Reject(f"{-amount} are more than the balance of {balance}")
    await tx.execute(
        "insert into accounts (account, balance, bookings) values (%s, %s, %s)"
        " on conflict (account) do update set balance = excluded.balance, bookings = excluded.bookings",
        (event.subject, balance + amount, number + 1),
    )
    await tx.execute(
        "insert into bookings (account, number, event, amount, balance) values (%s, %s, %s, %s, %s)",
        (event.subject, number + 1, event.id, amount, balance + amount),
    )
