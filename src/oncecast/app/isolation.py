"""Run users' code in a task of its own, and cancel it when its time is over or an event is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from oncecast.app.blocking_time import OwnTime
from oncecast.core.clock import Clock
from oncecast.core.errors import AttemptFailed, HandlerTimeout
from oncecast.core.telemetry import Record, ignore
from oncecast.tasks import error_of

CANCELS_MAX = 10
"""How often a task is cancelled before it is abandoned."""

_left_behind: set[asyncio.Task[Any]] = set()
"""Abandoned tasks: without a reference Python could destroy them while they are pending, and log that."""
HELD_UP_MIN_S = 0.5
"""A timer that is at least this late was delayed by another handler, which blocked the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How users' code is run: for at most `timeout_s` by `clock`."""

    clock: Clock
    timeout_s: float
    cancel_again_s: float = 15.0
    """The time for it to clean up, and for its statement to be cancelled, before it is cancelled again."""
    abandoned_threads_max: int = 100
    """When this number of threads still run after their time-out, no attempt that needs a thread begins."""
    check_emitted: Callable[[bytes], None] | None = None
    """Raises ValueError for an event that no producer would accept."""
    record: Record = ignore


@asynccontextmanager
async def cancel_on(event: asyncio.Event) -> AsyncIterator[None]:
    """Cancel the block when `event` is set; its errors are then suppressed."""
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
                watcher.cancel()  # not awaited, so that a block that has ended is not cancelled any more
    except Exception:  # classified: only errors of a cancelled block are suppressed
        if not deadline.expired():
            raise


async def run_isolated(handling: Coroutine[Any, Any, None], options: RunOptions) -> None:
    """Run users' code in a task of its own. Raises what it raises, or HandlerTimeout.

    The caller's task is not affected: up to Python 3.12 a failed TaskGroup leaves its parent as if cancelled, and
    users may swallow a cancellation. Code that was cancelled or timed out never returns normally here. SystemExit and
    KeyboardInterrupt, which would end the event loop, become AttemptFailed.
    """
    contained = _contained(handling)
    own = OwnTime(contained, options.clock.monotonic_s)
    task = asyncio.get_running_loop().create_task(own.run())
    task.add_done_callback(partial(_close, contained, handling))
    in_time = False
    try:
        in_time = await _ends_in_time(task, own, options)
    finally:
        if task.done():
            error_of(task)  # otherwise asyncio logs it as never retrieved
        else:
            await _end(task, options.cancel_again_s)
    if not in_time:
        text = f"the handler took longer than HANDLER_TIMEOUT, {options.timeout_s:g} s"
        raise HandlerTimeout(text) from error_of(task)
    if (error := error_of(task)) is not None and not isinstance(error, Exception):
        raise failed_attempt(error) from error
    task.result()


async def _contained(handling: Coroutine[Any, Any, None]) -> None:
    try:
        await handling
    except (SystemExit, KeyboardInterrupt) as error:
        raise failed_attempt(error) from error


def _close(contained: Coroutine[Any, Any, None], handling: Coroutine[Any, Any, None], _: object) -> None:
    # A task that is cancelled before its first step never starts them, and Python warns of that.
    contained.close()
    handling.close()


def failed_attempt(error: BaseException) -> AttemptFailed:
    """Return AttemptFailed for an error of users' code that is not an Exception, such as SystemExit."""
    text = f": {error}" if str(error) else ""
    return AttemptFailed(f"the handler raised {type(error).__name__}{text}")


async def _ends_in_time(task: asyncio.Task[None], own: OwnTime, options: RunOptions) -> bool:
    """Return whether the task ends in time, or late only because other code blocked the event loop."""
    loop = asyncio.get_running_loop()
    monotonic_s, timeout_s = options.clock.monotonic_s, options.timeout_s
    due_s, wait_s = monotonic_s() + timeout_s, timeout_s
    while True:
        over: asyncio.Future[None] = loop.create_future()
        wake = partial(_set, over)
        task.add_done_callback(wake)
        timer = loop.call_later(wait_s, wake)
        try:
            await over
        finally:
            timer.cancel()
            task.remove_done_callback(wake)
        late_s = monotonic_s() - due_s
        if task.done():
            return late_s <= 0 or not own.is_late_by_itself(late_s)
        if late_s < HELD_UP_MIN_S or own.is_late_by_itself(late_s):
            return False
        wait_s = min(late_s, timeout_s)
        due_s = monotonic_s() + wait_s


def _set(over: asyncio.Future[None], _: object = None) -> None:
    if not over.done():
        over.set_result(None)


async def _end(task: asyncio.Task[Any], again_s: float) -> None:
    """Cancel the task until it has ended, every `again_s` and whenever the caller is cancelled; then abandon it."""
    cancelled: asyncio.CancelledError | None = None
    for _ in range(CANCELS_MAX):
        if task.done():
            break
        task.cancel()
        try:
            await asyncio.wait([task], timeout=again_s)
        except asyncio.CancelledError as error:
            cancelled = error
    else:
        _left_behind.add(task)
        task.add_done_callback(_left_behind.discard)
    task.add_done_callback(error_of)
    if cancelled is not None:
        raise cancelled
