"""An application whose handlers wait for a row that another session may have locked."""

from __future__ import annotations

from oncecast import App, Event, Transaction

app = App("oncecast")
SQL = "update public.stock set free = free - 1 where sku = %s"


@app.on("order")
async def reserve(event: Event, tx: Transaction) -> None:
    """One event a transaction."""
    await tx.execute(SQL, (event.subject,))


@app.on("shared", share_transaction=True)
async def reserve_together(event: Event, tx: Transaction) -> None:
    """Several a transaction."""
    await tx.execute(SQL, (event.subject,))
