"""A thread that reports code of the application that blocks the event loop, and so the whole listener."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from oncecast.app.application import App
from oncecast.core.clock import Clock
from oncecast.core.telemetry import LoopBlocked, Record
from oncecast.core.tracebacks import is_library

BLOCKED_AFTER_S = 3.0
CHECK_INTERVAL_S = 0.5


@contextmanager
def loop_watched(record: Record, clock: Clock, blocked_after_s: float = BLOCKED_AFTER_S) -> Iterator[None]:
    """Record LoopBlocked once each time that code of the application blocks the running loop for `blocked_after_s`.

    `record` is called in a thread. If the code holds the GIL, the report waits for its release.
    """
    watch = _LoopWatch(asyncio.get_running_loop(), record, clock, blocked_after_s)
    watch.begin()
    try:
        yield
    finally:
        watch.end()


class _LoopWatch:
    def __init__(self, loop: asyncio.AbstractEventLoop, record: Record, clock: Clock, blocked_after_s: float) -> None:
        self._loop = loop
        self._record = record
        self._clock = clock
        self._blocked_after_s = blocked_after_s
        self._loop_thread = threading.get_ident()
        self._turned_at_s = 0.0
        self._is_reported = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="oncecast loop watch", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._turn()
        self._thread.start()

    def end(self) -> None:
        """Stop the thread, without waiting for it."""
        self._timer.cancel()
        self._ended.set()

    def _turn(self) -> None:
        self._turned_at_s = self._clock.monotonic_s()
        self._is_reported = False
        self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._turn)

    def _watch(self) -> None:
        while not self._ended.wait(CHECK_INTERVAL_S):
            blocked_s = self._clock.monotonic_s() - self._turned_at_s - CHECK_INTERVAL_S
            if blocked_s < self._blocked_after_s or self._is_reported:
                continue
            self._is_reported = True
            frame = sys._current_frames().get(self._loop_thread)
            blocked = None if frame is None else _blocked_by(frame, blocked_s)
            if blocked is not None:
                self._record(blocked)


def _blocked_by(innermost: FrameType, blocked_s: float) -> LoopBlocked | None:
    """Return the event for a blocked loop; None if no code of the application runs: the whole process was stopped."""
    frames = [frame for frame, _ in traceback.walk_stack(innermost)][::-1]
    run = next((n for n, frame in enumerate(frames) if frame.f_code is App._run.__code__), None)
    if run is not None:
        handler, given = frames[run].f_locals["handler"].name, frames[run].f_locals["given"]
        event_id, users = given.events[0].id, frames[run + 1 :]
    else:
        handler, event_id = "", ""
        begin = next((n for n, frame in enumerate(frames) if not is_library(frame.f_code.co_filename)), len(frames))
        users = frames[begin:]
    if not users:
        return None
    stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in users)
    last = next(entry for entry in reversed([*stack]) if not is_library(entry.filename) or entry is stack[0])
    return LoopBlocked(
        handler=handler,
        id=event_id,
        blocked_s=round(blocked_s, 1),
        at=f"{last.filename}:{last.lineno}",
        traceback="".join(stack.format()).rstrip("\n"),
    )
