"""An event loop whose time passes only when nothing is left to do, and whose tasks have an owner that can vanish.

Nothing here waits for the real world: a run is a function of its seed. Who is *frozen* does nothing until it is
thawed; who has *vanished* never does anything again, not even what stands in a `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="world")
"""Whose work a task does: it is passed on to everything that the task begins."""


class NothingLeft(Exception):
    """Everybody waits, and nothing will ever happen again."""


class _Handle(events.Handle):
    __slots__ = ()

    def _run(self) -> None:
        if self._loop.may_run(self):  # type: ignore[attr-defined]
            super()._run()


class _TimerHandle(events.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        if self._loop.may_run(self):  # type: ignore[attr-defined]
            super()._run()


class _Clock:
    """Stands where a selector would: instead of waiting, time passes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._loop.now_s += timeout
        return []

    def close(self) -> None:
        pass


class _Task(asyncio.Task[Any]):
    """Hashed by its number, not by its place in memory: what asyncio keeps in sets comes in the same order again."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Virtual time from 0 s on; `tasks` keeps every task alive, so that none is cleaned up behind our back."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.steps = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self._selector = _Clock(self)
        self._clock_resolution = 1e-9
        self._gone: set[str] = set()
        self._frozen: dict[str, list[events.Handle]] = {}
        self.set_exception_handler(lambda _loop, _context: None)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.now_s

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""

    def _make_task(self, loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = _Task(coro, number=len(self.tasks), loop=loop, **options)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks.append(task)
        return task

    def abandon(self) -> None:
        """The run is over; what is left of it is nobody's."""
        self._gone.add("world")
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()

    # --- owners --------------------------------------------------------------------------------------------

    def may_run(self, handle: events.Handle) -> bool:
        """Whether its owner is there and awake; what a frozen one would do is kept for when it is thawed."""
        self.steps += 1
        owner = handle._context.get(OWNER, "world")  # type: ignore[attr-defined]
        if owner in self._gone:
            return False
        if owner in self._frozen:
            self._frozen[owner].append(handle)
            return False
        return True

    def vanish(self, owner: str) -> None:
        """Nothing of it ever runs again."""
        self._gone.add(owner)
        self._frozen.pop(owner, None)

    def freeze(self, owner: str) -> None:
        """Nothing of it runs until it is thawed."""
        if owner not in self._gone:
            self._frozen.setdefault(owner, [])

    def thaw(self, owner: str) -> None:
        """Everything that it missed happens to it now."""
        self._ready.extend(self._frozen.pop(owner, ()))  # type: ignore[attr-defined]

    # --- handles that know their owner ---------------------------------------------------------------------

    def _call_soon(self, callback: Callable[..., Any], args: Any, context: Any) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> events.TimerHandle:

        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> events.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """What begins in the block is `owner`'s."""
    token = OWNER.set(owner)
    try:
        yield
    finally:
        OWNER.reset(token)
