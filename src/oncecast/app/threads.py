"""Handlers that are a plain `def`: each runs in a thread of its own, and its transaction hands its calls to the loop.

A thread cannot be ended from outside: one that has run out of time runs on, but its transaction is dead. The threads
are daemons, so that such a one does not keep the process from ending.
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
    """Begins threads, and knows how many were given up on and still run."""

    def __init__(self) -> None:
        self._abandoned = 0

    def check(self, abandoned_max: int) -> None:
        """Raise NoThread if `abandoned_max` of them run on beyond their time."""
        if self._abandoned >= abandoned_max:
            raise NoThread(f"{self._abandoned} handlers run on in their threads, though their time is over")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; a cancellation leaves the thread behind."""
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
            except StopIteration as stopped:  # no future takes it
                error = RuntimeError(f"the handler raised {stopped!r}")
            except BaseException as raised:  # whatever it was, it belongs to whoever waits
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
    """See `oncecast.SyncTransaction`: every call is made on the loop, and waited for here."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._loop = asyncio.get_running_loop()
        self._within: tuple[int, ...] = ()

    def execute(self, query: str, params: Params = None) -> int:
        """See SyncTransaction."""
        return self._wait(self._tx.execute(query, params))

    def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """See SyncTransaction."""
        return self._wait(self._tx.fetch_one(query, params))

    def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """See SyncTransaction."""
        return self._wait(self._tx.fetch_all(query, params))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See SyncTransaction."""
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
        if forks.is_child():  # where no loop runs that could make the call
            call.close()
            raise TransactionClosed("a forked process has no transaction: only its parent may write on it")
        CURRENT_SAVEPOINTS.set(self._within)  # in whatever thread: its context goes with the call
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


async def _entered(savepoint: AbstractAsyncContextManager[None]) -> tuple[int, ...]:
    """What stands in CURRENT_SAVEPOINTS now: every call of a thread is a task of its own."""
    await savepoint.__aenter__()
    return CURRENT_SAVEPOINTS.get()


async def _awaited(call: Callable[..., Any], *arguments: Any) -> Any:
    return await call(*arguments)
