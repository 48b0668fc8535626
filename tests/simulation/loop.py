"""An event loop with virtual time, which advances only when nothing is ready, and tasks with owners that can crash.

Nothing waits for real time: a run depends only on its seed. A *frozen* owner does nothing until it is thawed; a
*vanished* owner never runs again, not even its `finally` blocks.
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
"""The owner of a task; tasks and callbacks that it creates inherit it."""


SPINNING_STEPS = 100_000
"""More steps without time passing are an endless loop."""


class NothingLeft(Exception):
    """Every task waits, and no timer is set."""


class Spinning(Exception):
    """A task runs without end, and no time passes."""


class _Task(asyncio.Task[Any]):
    """A task that is hashed by its number, not its address: asyncio's sets are iterated in a fixed order."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Handle(events.Handle):
    """A handle without debug information: a run creates thousands."""

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
    """Awaiting it lets all other ready tasks run first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop whose time starts at 1,000 s. It references every task until the end, so that none is cleaned up."""

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
        self._scheduled_crashes: dict[str, tuple[int, Callable[[], object]]] = {}
        self._nobody_is_away = True
        """No owner has vanished, is frozen or has a scheduled crash."""
        self.set_exception_handler(lambda _loop, _context: None)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now_s

    def sleep(self, delay: float, result: None = None) -> Awaitable[None]:
        """Sleep as `asyncio.sleep` does, in fewer steps."""
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
        """Run what is ready, until the loop is to stop; if nothing is, advance the time to the next timer."""
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
                    pass  # as in every loop, an error of a callback stops nothing

    def _may_run(self, handle: _Handle) -> bool:
        """Whether the owner runs; handles of a frozen owner are kept until it is thawed."""
        owner = handle._context.get(OWNER, "world")
        if owner in self._gone:
            return False
        if owner in self._frozen:
            self._frozen[owner].append(handle)
            return False
        return owner not in self._scheduled_crashes or self._live_on(owner)

    def _live_on(self, owner: str) -> bool:
        steps, strike = self._scheduled_crashes.pop(owner)
        if not steps:
            strike()
            return False
        self._scheduled_crashes[owner] = (steps - 1, strike)
        return True

    def _make_task(self, loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = _Task(coro, number=len(self._tasks), loop=loop, **options)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        return task

    def abandon(self) -> None:
        """Drop all tasks at the end of the run."""
        for task in self._tasks:
            asyncio._unregister_task(task)
        self.vanish("world")
        self._ready.clear()
        self._timers.clear()
        self.close()

    def vanish(self, owner: str) -> None:
        """Never run anything of this owner again."""
        self._nobody_is_away = False
        self._gone.add(owner)
        self._frozen.pop(owner, None)

    def strike_after(self, owner: str, steps: int, strike: Callable[[], object]) -> None:
        """Call `strike` after the owner has taken `steps` more steps, between any two of its awaits."""
        self._nobody_is_away = False
        self._scheduled_crashes[owner] = (steps, strike)

    def freeze(self, owner: str) -> None:
        """Stop the owner until it is thawed."""
        self._nobody_is_away = False
        if owner not in self._gone:
            self._frozen.setdefault(owner, [])

    def thaw(self, owner: str) -> int:
        """Run everything that the owner missed; return the number of its handles."""
        missed = self._frozen.pop(owner, [])
        self._ready.extend(missed)
        return len(missed)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """Make `owner` the owner of everything that starts in the block."""
    token = OWNER.set(owner)
    try:
        yield
    finally:
        OWNER.reset(token)


def owner_name() -> str:
    """Return the name of the current owner, without the number of its life."""
    return OWNER.get().partition("#")[0]


def sleep(delay_s: float) -> Awaitable[None]:
    """Sleep as `asyncio.sleep` does on a VirtualLoop, in fewer steps."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.sleep(delay_s)


def begin(work: Awaitable[Any]) -> asyncio.Future[Any]:
    """Start a task of the current owner; the loop references it."""
    return asyncio.ensure_future(work)


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
