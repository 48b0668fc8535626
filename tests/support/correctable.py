"""An application whose orders fail until an operator corrects the article in their data."""

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("order")
async def reserve(event: Event, tx: Transaction) -> None:
    await tx.execute("create table if not exists public.reserved (id text primary key, count integer not null)")
    if event.data["sku"] != "tea":
        raise KeyError(event.data["sku"])
    await tx.execute(
        "insert into public.reserved values (%s, 1) on conflict (id) do update set count = public.reserved.count + 1",
        (event.id,),
    )
