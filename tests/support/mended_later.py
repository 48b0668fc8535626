"""An application that fails its orders until there is a table `mended`, and takes its time with them."""

import asyncio

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("order")
async def reserve(event: Event, tx: Transaction) -> None:
    if not await tx.fetch_one("select 1 from pg_tables where tablename = 'mended'"):
        raise RuntimeError("not yet mended")
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )
    await asyncio.sleep(event.data["seconds"])
