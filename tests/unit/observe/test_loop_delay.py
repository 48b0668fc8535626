"""The delay of the event loop is measured while the block runs."""

from __future__ import annotations

import asyncio
import time

from oncecast.observe.loop_delay import MEASURE_INTERVAL_S, loop_delay_measured


async def test_code_that_blocks_the_event_loop_delays_its_timers() -> None:
    delays_s: list[float] = []
    enough = asyncio.Event()

    def measured(delay_s: float) -> None:
        delays_s.append(delay_s)
        enough.set()

    with loop_delay_measured(measured):
        time.sleep(2 * MEASURE_INTERVAL_S)
        await enough.wait()
    assert delays_s[0] >= MEASURE_INTERVAL_S / 2
