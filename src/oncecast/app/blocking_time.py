"""Measure how long users' code blocks the event loop; meanwhile no other task runs and no time-out fires."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class OwnTime:
    """Runs a coroutine step by step; `longest_s` is the longest time that a step blocked the event loop."""

    __slots__ = ("_handling", "_monotonic_s", "longest_s")

    def __init__(self, handling: Coroutine[Any, Any, None], monotonic_s: Callable[[], float]) -> None:
        self._handling = handling
        self._monotonic_s = monotonic_s
        self.longest_s = 0.0

    async def run(self) -> None:
        """Run the coroutine. Raises what it raises."""
        await self._steps()

    def is_late_by_itself(self, late_s: float) -> bool:
        """Return whether its own blocking explains a delay of `late_s`."""
        return self.longest_s >= late_s

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, None]:
        handling, monotonic_s = self._handling, self._monotonic_s
        value: Any = None
        thrown: BaseException | None = None
        while True:
            began_s = monotonic_s()
            try:
                awaited = handling.send(value) if thrown is None else handling.throw(thrown)
            except StopIteration:
                return
            finally:
                self.longest_s = max(self.longest_s, monotonic_s() - began_s)
            value = thrown = None
            try:
                value = yield awaited
            except BaseException as error:  # a cancellation, or the end of an abandoned task: pass it on
                thrown = error
