"""An application whose events take 20 ms each, but for those that fail."""

import asyncio

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("slow")
async def be_slow(event: Event, tx: Transaction) -> None:
    await asyncio.sleep(0.02)


@app.on("failing")
async def fail(event: Event, tx: Transaction) -> None:
    raise ValueError("never works")
