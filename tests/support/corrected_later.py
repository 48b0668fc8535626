"""An application whose orders fail until the table `corrected` exists, and are slow then."""

import asyncio

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("order")
async def reserve(event: Event, tx: Transaction) -> None:
    if not await tx.fetch_one("select 1 from pg_tables where tablename = 'corrected'"):
        raise RuntimeError("not yet corrected")
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )
    await asyncio.sleep(event.data["seconds"])
