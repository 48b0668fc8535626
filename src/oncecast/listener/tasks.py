"""Tasks and events: the first of several, an end for all, and users' code apart from ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

CANCEL_INTERVAL_S = 0.2
CANCEL_AGAIN_S = 15.0
"""Users' code may take so long to clean up, and a statement of theirs to be ended, before it is cancelled again."""
CANCELS_MAX = 10
"""So often it is cancelled before it is left behind."""

left_behind: set[asyncio.Task[Any]] = set()
"""Users' code that goes on and on, though it was cancelled as often as it may be."""


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


async def apart(handling: Coroutine[Any, Any, None], *, timeout_s: float) -> None:
    """Run users' code in a task of its own; raises what it raises, or TimeoutError when its time was over.

    What it does to its task stays there: up to Python 3.12 a TaskGroup that fails leaves its parent as if cancelled,
    and users may swallow a cancellation. Here, whoever was cancelled, or ran out of time, never returns.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(handling)
    over: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(wake)
    timer = loop.call_later(timeout_s, wake, None)
    try:
        await over
    finally:
        timer.cancel()
        in_time = task.done()
        if in_time:
            _error_of(task)  # or it would be told as never retrieved
        else:
            await _end(task)
    if not in_time:
        raise TimeoutError(f"the handler took longer than HANDLER_TIMEOUT, {timeout_s:g} s") from _error_of(task)
    task.result()


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel it until it has ended: whenever we are cancelled meanwhile, and else with time to clean up."""
    cancelled: asyncio.CancelledError | None = None
    for _ in range(CANCELS_MAX):
        if task.done():
            break
        task.cancel()
        try:
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
    else:
        left_behind.add(task)
        task.add_done_callback(left_behind.discard)
    task.add_done_callback(_error_of)
    if cancelled is not None:
        raise cancelled


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


async def end_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End `tasks`, however often that takes: a library that uses `wait_for` can swallow a cancellation on 3.11."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)
