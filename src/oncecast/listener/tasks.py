"""Tasks and events: the first of several, and an end for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

CANCEL_INTERVAL_S = 0.2


async def first_of(*events: asyncio.Event) -> asyncio.Event:
    """The first of `events` that is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return next(event for event in events if event.is_set())
    finally:
        await end_all(waiting)


@asynccontextmanager
async def unless(event: asyncio.Event) -> AsyncIterator[None]:
    """Cut the block short when `event` is set; no error of it comes out then."""
    loop = asyncio.get_running_loop()

    async def watch(deadline: asyncio.Timeout) -> None:
        await event.wait()
        deadline.reschedule(loop.time())

    deadline = asyncio.timeout(None)
    try:
        async with deadline:
            watcher = loop.create_task(watch(deadline))
            try:
                yield
            finally:
                watcher.cancel()  # and nothing is awaited: a block that has come to its end is not cut short any more
    except Exception:  # classified: only of a block that was cut short
        if not deadline.expired():
            raise


async def end_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End `tasks`, however often that takes: a library that uses `wait_for` can swallow a cancellation on 3.11."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)
