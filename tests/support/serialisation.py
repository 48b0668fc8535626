"""An application one of whose events always brings about an error that is the database's."""

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("conflicting")
async def conflict(event: Event, tx: Transaction) -> None:
    await tx.execute("do $$ begin raise exception 'could not serialize access' using errcode = '40001'; end $$")
