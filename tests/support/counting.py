"""An application whose effects can be counted: each `counted` event adds one to its row in `effects`."""

import asyncio
import contextlib

import psycopg

from oncecast import App, Event, Reject, Transaction

app = App("oncecast")

TABLES = """
create table if not exists public.effects (id text primary key, count integer not null);
create table if not exists public.total (one boolean primary key default true, count bigint not null);
insert into public.total values (true, 0) on conflict do nothing;
"""


@app.on("counted")
async def count(event: Event, tx: Transaction) -> None:
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )


@app.on("counted")
async def add_up(event: Event, tx: Transaction) -> None:
    await tx.execute("update public.total set count = count + 1")


@app.on("swallows")
async def swallow(event: Event, tx: Transaction) -> None:
    await tx.execute("insert into public.effects values (%s, 1)", (event.id,))
    with contextlib.suppress(psycopg.Error):
        await tx.execute("select 1 / 0")


@app.on("rejected")
async def reject(event: Event, tx: Transaction) -> None:
    await tx.execute("insert into public.effects values (%s, 1)", (event.id,))
    raise Reject("out of stock")


@app.on("fails")
async def fail(event: Event, tx: Transaction) -> None:
    await tx.execute("insert into public.effects values (%s, 1)", (event.id,))
    raise ValueError("never works")


@app.on("slow")
async def be_slow(event: Event, tx: Transaction) -> None:
    await count(event, tx)
    await asyncio.sleep(event.data["seconds"])
