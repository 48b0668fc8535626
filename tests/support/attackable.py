"""Counted events, and some that fail by chance: their effects are counted too."""

import random

from oncecast import Event, Listener, Transaction
from tests.support.counting import add_up, count

app = Listener("oncecast")
app.on("counted", "flaky")(count)
app.on("counted", "flaky")(add_up)


@app.on("flaky")
async def fail_by_chance(event: Event, tx: Transaction) -> None:
    if random.random() < 0.8:
        raise ValueError("by chance")
