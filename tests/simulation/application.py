"""The application under simulation: as that of `oncecast chaos`, but its one statement counts in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from oncecast.core.event import Event
from oncecast.core.ports import Transaction
from oncecast.listener.handlers import Listener
from oncecast.stores.memory.postgres import EFFECT

GROUP = "simulated"


def application(draw: random.Random, is_mended: Callable[[], bool], vanish: Callable[[], None]) -> Listener:
    """`is_mended()` says whether flaky events may succeed by now; `vanish()` ends the process that calls it."""
    app = Listener(GROUP)

    @app.on("counted", "flaky", "slow", "failing")
    async def count(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, (event.id,))

    @app.on("flaky")
    async def fail_by_chance(event: Event, tx: Transaction) -> None:
        if not is_mended() or draw.random() < 0.3:
            raise RuntimeError("by chance")

    @app.on("slow")
    async def be_slow(event: Event, tx: Transaction) -> None:
        await asyncio.sleep(draw.uniform(0.1, 3.0))

    @app.on("failing")
    async def fail(event: Event, tx: Transaction) -> None:
        raise RuntimeError("told to fail")

    @app.on("swallowing")
    async def swallow(event: Event, tx: Transaction) -> None:
        with contextlib.suppress(SyntaxError):
            await tx.execute(EFFECT, (event.id,))
            await tx.execute("no statement")

    @app.on("killing")
    async def kill(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, (event.id,))
        vanish()
        await asyncio.Event().wait()

    return app
