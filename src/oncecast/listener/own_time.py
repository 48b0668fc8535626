"""Measure how long users' code blocks the event loop: meanwhile no other task runs, and no time-out fires."""

from __future__ import annotations

import time
import types
from collections.abc import Coroutine, Generator
from typing import Any


class OwnTime:
    """Runs `handling` step by step; `longest_s` is the longest time that one step blocked the loop."""

    __slots__ = ("_handling", "longest_s")

    def __init__(self, handling: Coroutine[Any, Any, None]) -> None:
        self._handling = handling
        self.longest_s = 0.0

    async def run(self) -> None:
        """Run `handling`; raises what it raises."""
        await self._steps()

    def is_late_by_itself(self, late_s: float) -> bool:
        """Return whether its own blocking explains a delay of `late_s`."""
        return self.longest_s >= late_s

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, None]:
        handling = self._handling
        value: Any = None
        thrown: BaseException | None = None
        while True:
            began_s = time.monotonic()
            try:
                awaited = handling.send(value) if thrown is None else handling.throw(thrown)
            except StopIteration:
                return
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            value = thrown = None
            try:
                value = yield awaited
            except BaseException as error:  # a cancellation, or the end of an abandoned task: pass it on
                thrown = error
