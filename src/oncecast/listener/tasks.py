"""Tasks and events: the first of several, and an end for all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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


async def end_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End `tasks`, however often that takes: a library that uses `wait_for` can swallow a cancellation on 3.11."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)
