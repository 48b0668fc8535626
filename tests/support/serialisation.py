"""An application with an event that always causes an error of the database."""

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("conflicting")
async def conflict(event: Event, tx: Transaction) -> None:
    await tx.execute("do $$ begin raise exception 'could not serialize access' using errcode = '40001'; end $$")
