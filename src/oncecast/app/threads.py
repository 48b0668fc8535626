"""Run `def` handlers, each in a thread of its own; the calls of its transaction run on the event loop.

A thread cannot be stopped from outside: after a time-out it is abandoned and runs on, but its transaction refuses
calls. Threads are daemons, so that an abandoned one does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from oncecast import forks
from oncecast.core.errors import NoThread, TransactionClosed
from oncecast.core.savepoints import CURRENT_SAVEPOINTS
from oncecast.core.transaction import Params, Transaction

T = TypeVar("T")


class Threads:
    """Starts threads, and counts the abandoned ones that still run."""

    def __init__(self) -> None:
        self._abandoned = 0

    def check(self, abandoned_max: int) -> None:
        """Raise NoThread if `abandoned_max` abandoned threads still run."""
        if self._abandoned >= abandoned_max:
            raise NoThread(f"{self._abandoned} handlers still run in their threads after HANDLER_TIMEOUT")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a new thread; return its result or raise its error. A cancellation abandons the thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                self._abandoned -= 1
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = context.run(work)
            except StopIteration as stopped:  # a future refuses it
                error = RuntimeError(f"the handler raised {stopped!r}")
            except BaseException as raised:  # passed on to the waiting task
                error = raised
            forks.end_child(error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=run, name="oncecast handler", daemon=True).start()
        try:
            return await done
        except asyncio.CancelledError:
            if done.cancelled():
                self._abandoned += 1
            raise


class ThreadTransaction:
    """The `SyncTransaction` of a thread: it runs each call on the event loop and waits for the result."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._loop = asyncio.get_running_loop()
        self._within: tuple[int, ...] = ()

    def execute(self, query: str, params: Params = None) -> int:
        """Run one statement, and return the number of affected rows."""
        return self._wait(self._tx.execute(query, params))

    def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement, and return the first row by column name, or None."""
        return self._wait(self._tx.fetch_one(query, params))

    def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement, and return all rows by column name."""
        return self._wait(self._tx.fetch_all(query, params))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Open a savepoint: if the block raises, only the block is rolled back."""
        savepoint, outer = self._tx.savepoint(), self._within
        self._within = self._wait(_entered(savepoint))
        try:
            yield
        except Exception as error:
            if not self._wait(_awaited(savepoint.__aexit__, type(error), error, error.__traceback__)):
                raise
        else:
            self._wait(_awaited(savepoint.__aexit__, None, None, None))
        finally:
            self._within = outer

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        if forks.is_child():  # no event loop runs here
            call.close()
            raise TransactionClosed("a forked process has no transaction: only its parent may use it")
        CURRENT_SAVEPOINTS.set(self._within)  # the context of the calling thread is copied to the call
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


async def _entered(savepoint: AbstractAsyncContextManager[None]) -> tuple[int, ...]:
    """Enter `savepoint` and return the open savepoints: each call of a thread is a task with its own context."""
    await savepoint.__aenter__()
    return CURRENT_SAVEPOINTS.get()


async def _awaited(call: Callable[..., Any], *arguments: Any) -> Any:
    return await call(*arguments)
