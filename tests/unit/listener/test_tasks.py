"""A drain ends, whatever the tasks do with their cancellation."""

from __future__ import annotations

import asyncio

from oncecast.listener.tasks import end_all


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_all([task])
    assert (swallowed, task.cancelled()) == (2, True)
