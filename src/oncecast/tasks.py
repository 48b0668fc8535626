"""Cancel tasks reliably, and end the process when an essential task ends.

A library can swallow a cancellation (redis-py does on Python 3.11, through `asyncio.wait_for`), and a TaskGroup
cancels each task once and then waits without a limit. So Oncecast cancels a task repeatedly until it has ended.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from oncecast.core.clock import Clock
from oncecast.core.errors import OncecastError

T = TypeVar("T")
CANCEL_INTERVAL_S = 0.2
STALL_S = 120.0
"""An upkeep task that completes no round in this time is stalled: each of its calls has a shorter deadline."""


async def wait_any(*events: asyncio.Event) -> asyncio.Event:
    """Return the first of `events` that is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return next(event for event in events if event.is_set())
    finally:
        await cancel_all(waiting)


async def cancel_all(
    tasks: Iterable[asyncio.Task[Any]], *, within_s: float = math.inf, again_s: float = CANCEL_INTERVAL_S
) -> set[asyncio.Task[Any]]:
    """Cancel `tasks` every `again_s` until they have ended; return those that have not within `within_s`.

    Marks their errors as retrieved. If the caller is cancelled meanwhile, that is raised at the end.
    """
    tasks = set(tasks)
    loop_time_s = asyncio.get_running_loop().time
    deadline_s = loop_time_s() + within_s
    cancelled: asyncio.CancelledError | None = None
    pending = {task for task in tasks if not task.done()}
    while pending and loop_time_s() < deadline_s:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=again_s)
        except asyncio.CancelledError as error:
            cancelled = error
        pending = {task for task in pending if not task.done()}
    for task in tasks - pending:
        error_of(task)
    if cancelled is not None:
        raise cancelled
    return pending


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what `task` has raised, or None; asyncio then no longer reports it as never retrieved."""
    return task.exception() if task.done() and not task.cancelled() else None


async def run_until_first_end(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run `coroutines` as tasks until the first has ended, end the others, and raise the first one's error."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        await cancel_all(tasks)
    ended.result()


@dataclass(slots=True)
class _Progress:
    """The time, by `monotonic_s`, by which an essential task must report again."""

    monotonic_s: Callable[[], float]
    due_at_s: float = math.inf


_progress: ContextVar[_Progress | None] = ContextVar("oncecast_progress", default=None)


def working(within_s: float) -> None:
    """Report progress of the current essential task; without another report within `within_s` it is stalled."""
    if (progress := _progress.get()) is not None:
        progress.due_at_s = progress.monotonic_s() + within_s


def idle() -> None:
    """Report that the current essential task waits for work, without a time limit."""
    if (progress := _progress.get()) is not None:
        progress.due_at_s = math.inf


class EssentialTaskEnded(OncecastError):
    """An essential task has ended by itself, without an error."""


class LastResort:
    """Ends this process by force if it does not end by itself. Uses a thread, since the event loop may be blocked."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[float, int, str]] = queue.SimpleQueue()
        threading.Thread(target=self._wait, name="last-resort", daemon=True).start()

    def arm(self, within_s: float, *, status: int, why: str) -> None:
        """Print `why` and exit with `status` after `within_s`. The first call decides. Safe in a signal handler."""
        self._orders.put((within_s, status, why))

    def _wait(self) -> None:
        within_s, status, why = self._orders.get()
        time.sleep(within_s)
        _exit(status, why)


def _exit(status: int, why: str) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"oncecast: {why}\n".encode())
    os._exit(status)


class Essentials:
    """The essential tasks of a process. The first one that ends by itself ends `run` with its error.

    All tasks are then cancelled, within 0.8 of `end_within_s`. After `end_within_s`, `last_resort` ends the process.
    """

    def __init__(self, clock: Clock, *, end_within_s: float, last_resort: LastResort | None = None) -> None:
        self._monotonic_s = clock.monotonic_s
        self._end_within_s = end_within_s
        self._last_resort = last_resort
        self._running: dict[asyncio.Task[None], _Progress] = {}
        self._changed = asyncio.Event()
        self._failed: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why this process must be restarted: an essential task has ended or is stalled. None if all run."""
        now_s = self._monotonic_s()
        for task, progress in self._running.items():
            if task.done():
                return _failure(task)
            if progress.due_at_s < now_s:
                return f"{task.get_name()} is stalled: its progress is {now_s - progress.due_at_s:.0f} s overdue"
        return None if self._failed is None else _failure(self._failed)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `coroutine` as an essential task; `name` is for people."""
        progress = _Progress(self._monotonic_s)
        task = asyncio.create_task(_reporting(coroutine, progress), name=name)
        task.add_done_callback(lambda _: self._changed.set())
        self._running[task] = progress
        return task

    def may_end(self, task: asyncio.Task[None]) -> None:
        """Allow `task` to end from now on without a failure, unless it has ended before."""
        if not task.done():
            self._running.pop(task, None)

    async def end(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel essential tasks until they have ended. This is not a failure, unless one has ended before."""
        tasks = list(tasks)
        for task in tasks:
            self.may_end(task)
        await cancel_all(tasks)

    async def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Return what `main` returns; raise the error of an essential task that ends while it runs.

        All tasks have ended then, except one that swallowed every cancellation for too long.
        """
        task = asyncio.create_task(main)
        task.add_done_callback(lambda _: self._changed.set())
        try:
            while self._failed is None and not task.done():
                await self._changed.wait()
                self._changed.clear()
                self._check()
        finally:
            await self._end_all(task)
        if self._failed is None:
            return task.result()
        raise error_of(self._failed) or EssentialTaskEnded(_failure(self._failed))

    async def _end_all(self, main: asyncio.Task[Any]) -> None:
        """End the essential tasks, then `main`, which gets time to clean up, for example its lifespan."""
        try:
            await cancel_all(self._running, within_s=0.2 * self._end_within_s)
        finally:
            self._running.clear()
            await cancel_all([main], within_s=0.6 * self._end_within_s, again_s=0.4 * self._end_within_s)

    def _check(self) -> None:
        self._failed = next((task for task in self._running if task.done()), None)
        if self._failed is not None and self._last_resort is not None:
            self._last_resort.arm(self._end_within_s, status=1, why=_failure(self._failed))


def _failure(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return f"{task.get_name()} was cancelled by other code"
    error = error_of(task)
    return f"{task.get_name()} failed: {type(error).__name__}: {error}" if error else f"{task.get_name()} has ended"


async def _reporting(coroutine: Coroutine[Any, Any, None], progress: _Progress) -> None:
    _progress.set(progress)
    await coroutine
