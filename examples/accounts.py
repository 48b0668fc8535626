"""Accounts whose bookings are done in the order in which they came, on two listeners.

What it shows: `ordered_by`. Events of one subject run one at a time, in the order of the producer's journal; those of
different subjects run side by side. Whether there is money enough depends on the order, so another one would be seen.

    oncecast up --app accounts:app --app-dir examples
    oncecast send examples/accounts.ndjson
    oncecast sql "select account, balance, bookings from accounts order by account"
    oncecast sql "select account, number, event, amount, balance from bookings order by account, number"

A booking in a currency without a rate fails three times before it is dead. The later ones of its account wait for
that long; those of other accounts do not.
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
    """An amount, below zero for what is withdrawn."""

    amount: int
    currency: str = "EUR"


@app.on("account.booked", ordered_by="subject")
async def book(booking: Booking, event: Event, tx: Transaction) -> None:
    """Add to the balance, and write down what it was after each booking."""
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
