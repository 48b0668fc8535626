"""A test listener for tests that are not coroutines: its methods block until the result is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from oncecast.app.application import App
from oncecast.core.errors import OncecastError
from oncecast.core.transaction import Params
from oncecast.event import Event
from oncecast.testing.listener import FROM_LIFESPAN, EventLike, TestListener
from oncecast.testing.results import Result, Statement
from oncecast.testing.scripted import ScriptedAnswer

T = TypeVar("T")


class SyncTestListener:
    """A `TestListener` for tests that are not coroutines: the same methods and attributes, without `await`."""

    __test__ = False

    def __init__(
        self,
        app: App,
        *,
        postgres: bool | str = False,
        state: Any = FROM_LIFESPAN,
        timeout_s: float = 60.0,
        event_attempts: int = 3,
    ) -> None:
        self._listener = TestListener(
            app, postgres=postgres, state=state, timeout_s=timeout_s, event_attempts=event_attempts
        )
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # and the thread's own stays as it is

    def __enter__(self) -> Self:
        try:
            self._run(self._listener.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._listener.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def send(self, event: EventLike, *, follow: bool = False) -> Result:
        """Attempt one event until it has ended, as `TestListener.send` does."""
        return self._run(self._listener.send(event, follow=follow))

    def send_all(self, events: Iterable[EventLike], *, follow: bool = False) -> list[Result]:
        """Attempt events that arrive together, as `TestListener.send_all` does."""
        return self._run(self._listener.send_all(events, follow=follow))

    def answer(self, query: str, answer: ScriptedAnswer, *, params: Params = None, times: int | None = None) -> None:
        """Script the answer to statements, as `TestListener.answer` does."""
        self._listener.answer(query, answer, params=params, times=times)

    def execute(self, query: str, params: Params = None) -> int:
        """Run a statement on the real PostgreSQL; return the number of affected rows."""
        return self._run(self._listener.execute(query, params))

    def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Return the first row by column name, or None."""
        return self._run(self._listener.fetch_one(query, params))

    def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Return all rows by column name."""
        return self._run(self._listener.fetch_all(query, params))

    @property
    def database_url(self) -> str:
        """The URL of the real PostgreSQL database, with its password."""
        return self._listener.database_url

    @property
    def statements(self) -> list[Statement]:
        """All statements that handlers ran so far."""
        return self._listener.statements

    @property
    def emitted(self) -> list[Event]:
        """All events that were emitted and committed so far."""
        return self._listener.emitted

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if _in_coroutine():
            call.close()
            raise OncecastError(
                "this test is a coroutine: use 'async with TestListener(app) as t', and await its calls"
            )
        return self._runner.run(call)


def _in_coroutine() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


MakeTestListener = Callable[..., SyncTestListener]
"""The type of the fixture `test_listener`: takes the arguments of SyncTestListener; ends it with the test."""
