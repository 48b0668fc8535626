"""An application whose handler fails the first time that it sees an event."""

from oncecast import App, Event, Transaction

app = App("oncecast")
seen: set[str] = set()


@app.on("stubborn")
async def fail_once(event: Event, tx: Transaction) -> None:
    if event.id not in seen:
        seen.add(event.id)
        raise ValueError("not yet")
