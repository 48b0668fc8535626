"""The built-in application under test: each type of event does one thing; SQL effects are counted per event."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Iterator

import psycopg

from oncecast.app.application import App
from oncecast.core.transaction import Transaction
from oncecast.event import Event, new_id

EFFECTS = "create table if not exists public.effects (id text primary key, count integer not null)"
WEIGHTS = {"tick": 840, "counted": 130, "flaky": 10, "slow": 4, "failing": 8, "swallowing": 8}
"""Relative frequencies. Events with handlers must stay below what the listeners can do with one or two down."""

app = App("chaos")


def events(draw: random.Random, *, killing_every: int = 0) -> Iterator[Event]:
    """Yield events without end; the handler of one in `killing_every` kills its process."""
    types, weights = list(WEIGHTS), list(WEIGHTS.values())
    for n in itertools.count(1):
        kills = killing_every and n % killing_every == 0
        type_ = "killing" if kills else draw.choices(types, weights)[0]
        yield Event.new(type_, {"n": n}, id=f"{type_}:{new_id()}")


@app.on("counted", "flaky", "slow", "failing", "killing")
async def count(event: Event, tx: Transaction) -> None:
    """Write one effect; it commits together with the event's row or not at all."""
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )


@app.on("flaky")
async def fail_by_chance(event: Event, tx: Transaction) -> None:
    """Fail every second attempt."""
    if random.random() < 0.5:
        raise RuntimeError("by chance")


@app.on("slow")
async def be_slow(event: Event, tx: Transaction) -> None:
    """Hold the transaction open for a while."""
    await asyncio.sleep(0.5)


@app.on("failing")
async def fail(event: Event, tx: Transaction) -> None:
    """Fail always."""
    raise RuntimeError("fails always")


@app.on("swallowing")
async def swallow(event: Event, tx: Transaction) -> None:
    """Hide an SQL error: the event must not be stored, nor its effect."""
    with contextlib.suppress(psycopg.Error):
        await tx.execute("insert into public.effects values (%s, 1)", (event.id,))
        await tx.execute("select 1 / 0")


@app.on("killing")
async def kill(event: Event, tx: Transaction) -> None:
    """Kill this process."""
    os._exit(9)
