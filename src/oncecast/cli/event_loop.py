"""Run the event loop of a producer or listener; end the process even if users' code hinders that."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from oncecast.cli import output
from oncecast.core.errors import OncecastError
from oncecast.tasks import LastResort, cancel_all

TASKS_END_WITHIN_S = 2.0
ROUNDS_MAX = 10
"""Tasks that end may create others, which must end too."""
EXIT_WITHIN_S = 5.0
"""How long threads and exit functions of users' code may run after the last task has ended."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, and end the process soon after, even if users' code has left tasks or threads."""
    loop = _new_event_loop()
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    status = 1
    try:
        _complete(loop, task)
        status = 0
    finally:
        LastResort().arm(EXIT_WITHIN_S, status=status, why="threads of the application do not end")
        if left := _close(loop):
            atexit.register(_leave, status, loop, left)


def _complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    """Run `loop` until `task` has ended.

    `sys.exit()` in a task or callback of users' code stops the loop, and so does `loop.stop()`. The loop is then
    started again, because at most some attempts have failed. Ctrl-C ends it while Oncecast handles no SIGINT.
    """
    while not task.done():
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise OncecastError("other code cancelled every task of this process") from None
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
            is_ours = isinstance(error, KeyboardInterrupt) and _ctrl_c_is_not_handled()
            if task.done() or is_ours:
                raise
            output.error(f"code outside of a handler stopped the event loop ({type(error).__name__}); it runs again")


def _ctrl_c_is_not_handled() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _close(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    """Cancel every task, also new ones, and close the loop; return the tasks that do not end."""
    left: set[asyncio.Task[Any]] = set()
    for _ in range(ROUNDS_MAX):
        if not (pending := asyncio.all_tasks(loop) - left):
            break
        left |= loop.run_until_complete(cancel_all(pending, within_s=TASKS_END_WITHIN_S))
    if left:
        return left
    with contextlib.suppress(RuntimeError):
        loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
    return set()


def _leave(status: int, *_kept: object) -> None:
    """Exit without cleanup: Python would close the remaining tasks, which swallow that too.

    `_kept` holds references to these tasks and their loop; otherwise Python would close them earlier.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_event_loop = uvloop.new_event_loop
    return new_event_loop()
