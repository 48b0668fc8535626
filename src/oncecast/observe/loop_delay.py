"""How late the event loop runs a timer: code that blocks it delays everything else in the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MEASURE_INTERVAL_S = 0.25


@contextmanager
def loop_delay_measured(measured: Callable[[float], None]) -> Iterator[None]:
    """Within the block, call `measured` every MEASURE_INTERVAL_S with the delay of its timer, in seconds."""
    loop = asyncio.get_running_loop()

    timers: list[asyncio.TimerHandle] = []

    def measure_at(due_s: float) -> None:
        timers[:] = [loop.call_at(due_s, measure, due_s)]

    def measure(due_s: float) -> None:
        now_s = loop.time()
        measured(max(0.0, now_s - due_s))
        measure_at(now_s + MEASURE_INTERVAL_S)

    measure_at(loop.time() + MEASURE_INTERVAL_S)
    try:
        yield
    finally:
        timers[0].cancel()
