"""An event loop whose time passes only when nothing is left to do, and whose tasks have an owner that can vanish.

Nothing here waits for the real world: a run is a function of its seed. Who is *frozen* does nothing until it is
thawed; who has *vanished* never does anything again, not even what stands in a `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="world")
"""Whose work a task does: it is passed on to everything that the task begins."""


SPINNING_STEPS = 100_000
"""So many steps in one moment lead nowhere."""


class NothingLeft(Exception):
    """Everybody waits, and nothing will ever happen again."""


class Spinning(Exception):
    """Somebody is busy for ever, and no time passes."""


class _Task(asyncio.Task[Any]):
    """Hashed by its number, not by its place in memory: what asyncio keeps in sets comes in the same order again."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Handle(events.Handle):
    """Without what only people who debug need: a run makes thousands."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


class _Turn:
    """To await it lets everybody else who is ready go first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class VirtualLoop(asyncio.BaseEventLoop):
    """Virtual time from 1,000 s on. Every task is kept alive until the end: none is cleaned up behind our back."""

    _ready: deque[_Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.steps = self._steps_before = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timer_numbers = itertools.count()
        self._gone: set[str] = set()
        self._frozen: dict[str, list[_Handle]] = {}
        self._doomed: dict[str, tuple[int, Callable[[], object]]] = {}
        self._nobody_is_away = True
        """Nobody has ever vanished, or been frozen or doomed."""
        self.set_exception_handler(lambda _loop, _context: None)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now_s

    def sleep(self, delay: float, result: None = None) -> Awaitable[None]:
        """As `asyncio.sleep`, in fewer steps."""
        if delay <= 0:
            return _Turn()
        over = self.create_future()
        self.call_at(self.now_s + delay, _set, over)
        return over

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle:
        timer = _Handle(callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Do what is ready, until the loop is to stop; if there is nothing, let time pass to where there is."""
        ready, timers = self._ready, self._timers
        while not self._stopping:
            while timers and (not ready or timers[0][0] <= self.now_s):
                when_s, _, timer = heapq.heappop(timers)
                if not timer._cancelled:
                    if when_s > self.now_s:
                        self.now_s, self._steps_before = when_s, self.steps
                    ready.append(timer)
            if not ready:
                raise NothingLeft
            if self.steps - self._steps_before > SPINNING_STEPS:
                raise Spinning
            handle = ready.popleft()
            self.steps += 1
            if not handle._cancelled and (self._nobody_is_away or self._may_run(handle)):
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException:
                    pass  # a callback's error is nobody's, as in every loop

    def _may_run(self, handle: _Handle) -> bool:
        """Whether its owner is there and awake; what a frozen one would do is kept for when it is thawed."""
        owner = handle._context.get(OWNER, "world")
        if owner in self._gone:
            return False
        if owner in self._frozen:
            self._frozen[owner].append(handle)
            return False
        return owner not in self._doomed or self._live_on(owner)

    def _live_on(self, owner: str) -> bool:
        steps, strike = self._doomed.pop(owner)
        if not steps:
            strike()
            return False
        self._doomed[owner] = (steps - 1, strike)
        return True

    def _make_task(self, loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = _Task(coro, number=len(self._tasks), loop=loop, **options)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        return task

    def abandon(self) -> None:
        """The run is over; what is left of it is nobody's."""
        for task in self._tasks:
            asyncio._unregister_task(task)
        self.vanish("world")
        self._ready.clear()
        self._timers.clear()
        self.close()

    def vanish(self, owner: str) -> None:
        """Nothing of it ever runs again."""
        self._nobody_is_away = False
        self._gone.add(owner)
        self._frozen.pop(owner, None)

    def strike_after(self, owner: str, steps: int, strike: Callable[[], object]) -> None:
        """Let it take so many steps more, wherever it stands then: between any two of its awaits."""
        self._nobody_is_away = False
        self._doomed[owner] = (steps, strike)

    def freeze(self, owner: str) -> None:
        """Nothing of it runs until it is thawed."""
        self._nobody_is_away = False
        if owner not in self._gone:
            self._frozen.setdefault(owner, [])

    def thaw(self, owner: str) -> int:
        """Everything that it missed happens to it now; how much that is."""
        missed = self._frozen.pop(owner, [])
        self._ready.extend(missed)
        return len(missed)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """What begins in the block is `owner`'s."""
    token = OWNER.set(owner)
    try:
        yield
    finally:
        OWNER.reset(token)


def owner_name() -> str:
    """Of whoever owns the moment: whichever life of it that is."""
    return OWNER.get().partition("#")[0]


def sleep(delay_s: float) -> Awaitable[None]:
    """As `asyncio.sleep` on a VirtualLoop, in fewer steps."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.sleep(delay_s)


def begin(work: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task of whoever owns the moment; the loop keeps it."""
    return asyncio.ensure_future(work)


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
