"""Tasks that end: cancelled until they have, and essential ones that take their process along.

A library can swallow a cancellation (redis-py does on Python 3.11, through `asyncio.wait_for`), and a TaskGroup
cancels each task once and then waits without a limit. So no service of Oncecast relies on one cancellation.
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

    Their errors count as retrieved. A cancellation of the caller is raised when all is done.
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
    """Run all of them as tasks until the first has ended; end the others, and raise what the first has raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        await cancel_all(tasks)
    ended.result()


@dataclass(slots=True)
class _Progress:
    """Until when an essential task has promised to report again, by `monotonic_s`."""

    monotonic_s: Callable[[], float]
    due_at_s: float = math.inf


_progress: ContextVar[_Progress | None] = ContextVar("oncecast_progress", default=None)


def working(within_s: float) -> None:
    """Have the current essential task report again within `within_s`: later than that, it stands still."""
    if (progress := _progress.get()) is not None:
        progress.due_at_s = progress.monotonic_s() + within_s


def idle() -> None:
    """Have the current essential task wait for work as long as it takes."""
    if (progress := _progress.get()) is not None:
        progress.due_at_s = math.inf


class EssentialTaskEnded(OncecastError):
    """An essential task has ended without an error of its own, though nobody ended it."""


class LastResort:
    """Ends this process by force where it cannot end by itself: a thread, since the event loop may be blocked."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[float, int, str]] = queue.SimpleQueue()
        threading.Thread(target=self._wait, name="last-resort", daemon=True).start()

    def arm(self, within_s: float, *, status: int, why: str) -> None:
        """Exit with `status` after `within_s`, with `why` as the last line. The first call decides.

        Safe in a signal handler.
        """
        self._orders.put((within_s, status, why))

    def _wait(self) -> None:
        within_s, status, why = self._orders.get()
        time.sleep(within_s)
        _exit(status, why)


def _exit(status: int, why: str) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"oncecast: {why}\n".encode())
    os._exit(status)


class Essentials:
    """The tasks that a process lives by: the first of them that ends by itself ends `run` with its error.

    Then everything is cancelled, which takes 0.8 of `end_within_s` at most; after all of it `last_resort` ends the
    process.
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
        """Why this process has to be restarted, if it has to: an essential task has ended, or stands still."""
        now_s = self._monotonic_s()
        for task, progress in self._running.items():
            if task.done():
                return _failure(task)
            if progress.due_at_s < now_s:
                return f"{task.get_name()} stands still: its progress is {now_s - progress.due_at_s:.0f} s overdue"
        return None if self._failed is None else _failure(self._failed)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `coroutine` as an essential task; `name` is for people."""
        progress = _Progress(self._monotonic_s)
        task = asyncio.create_task(_reporting(coroutine, progress), name=name)
        task.add_done_callback(lambda _: self._changed.set())
        self._running[task] = progress
        return task

    def may_end(self, task: asyncio.Task[None]) -> None:
        """Have the end of `task` count as no failure from now on, if it has not ended before."""
        if not task.done():
            self._running.pop(task, None)

    async def end(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel essential tasks until they have ended. That is no failure, unless one has ended before."""
        tasks = list(tasks)
        for task in tasks:
            self.may_end(task)
        await cancel_all(tasks)

    async def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Return what `main` returns; raise the error of an essential task that ends while it runs.

        No task is left, unless it swallowed every cancellation for too long.
        """
        task = asyncio.create_task(main)
        task.add_done_callback(lambda _: self._changed.set())
        try:
            while self._failed is None and not task.done():
                await self._changed.wait()
                self._changed.clear()
                self._look()
        finally:
            await self._end_all(task)
        if self._failed is None:
            return task.result()
        raise error_of(self._failed) or EssentialTaskEnded(_failure(self._failed))

    async def _end_all(self, main: asyncio.Task[Any]) -> None:
        """End the essential tasks, then `main`: what it does at its end, such as a lifespan's, is given time."""
        try:
            await cancel_all(self._running, within_s=0.2 * self._end_within_s)
        finally:
            self._running.clear()
            await cancel_all([main], within_s=0.6 * self._end_within_s, again_s=0.4 * self._end_within_s)

    def _look(self) -> None:
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
