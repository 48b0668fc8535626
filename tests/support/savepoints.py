"""Two concurrent tasks of one handler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from oncecast.core.transaction import Transaction


async def beside_a_savepoint_that_is_rolled_back(tx: Transaction, act: Callable[[], Awaitable[object]]) -> None:
    """Run `act` in one task while another task is in a savepoint, which is rolled back."""
    opened, done = asyncio.Event(), asyncio.Event()

    async def survives() -> None:
        with contextlib.suppress(ValueError):
            async with tx.savepoint():
                opened.set()
                await done.wait()
                raise ValueError

    async def acts() -> None:
        await opened.wait()
        await act()
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(survives())
        group.create_task(acts())
