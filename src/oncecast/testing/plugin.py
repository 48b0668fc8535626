"""A pytest plugin: `pytest_plugins = ["oncecast.testing.plugin"]` in a `conftest.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from oncecast.core.event import Event
from oncecast.listener.handlers import Listener
from oncecast.testing.listener import EventLike, TestListener
from oncecast.testing.results import Result
from oncecast.testing.scripted import Answer, Statement


class BlockingTestListener:
    """A TestListener whose calls return what theirs would, when awaited."""

    def __init__(self, runner: asyncio.Runner, listener: TestListener) -> None:
        self._run = runner.run
        self._listener = listener

    def send(self, event: EventLike, *, follow: bool = False) -> Result:
        """See TestListener."""
        return self._run(self._listener.send(event, follow=follow))

    def send_all(self, events: Iterable[EventLike], *, follow: bool = False) -> list[Result]:
        """See TestListener."""
        return self._run(self._listener.send_all(events, follow=follow))

    def answer(self, query: str, answer: Answer) -> None:
        """See TestListener."""
        self._listener.answer(query, answer)

    def execute(self, query: str, params: Any = None) -> int:
        """See TestListener."""
        return self._run(self._listener.execute(query, params))

    def fetch_all(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """See TestListener."""
        return self._run(self._listener.fetch_all(query, params))

    @property
    def statements(self) -> list[Statement]:
        """See TestListener."""
        return self._listener.statements

    @property
    def emitted(self) -> list[Event]:
        """See TestListener."""
        return self._listener.emitted


MakeTestListener = Callable[..., BlockingTestListener]


@pytest.fixture
def test_listener() -> Iterator[MakeTestListener]:
    """Makes test listeners for tests that are no coroutines: `test_listener(app, postgres=True).send(event)`.

    It takes what TestListener takes; each ends with the test.
    """
    with asyncio.Runner() as runner:
        begun: list[TestListener] = []

        def make(app: Listener, **options: Any) -> BlockingTestListener:
            listener = TestListener(app, **options)
            runner.run(listener.__aenter__())
            begun.append(listener)
            return BlockingTestListener(runner, listener)

        yield make
        for listener in reversed(begun):
            runner.run(listener.__aexit__(None, None, None))
