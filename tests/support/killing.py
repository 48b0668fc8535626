"""An application one of whose events ends the process that handles it."""

import asyncio
import os

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("counted")
async def count(event: Event, tx: Transaction) -> None:
    await asyncio.sleep(0.01)
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )


@app.on("killing")
async def kill(event: Event, tx: Transaction) -> None:
    os._exit(3)
