"""The open work of the group is counted every ten seconds, and soon after a change."""

from __future__ import annotations

from oncecast.core.errors import Unavailable
from oncecast.core.open_work import OpenWork
from oncecast.core.telemetry import Persisted, ProcessingFailed
from oncecast.listener.background.open_work_counts import COUNT_INTERVAL_S, PAUSE_S, OpenWorkCounts
from tests.simulation.clock import VirtualClock
from tests.support.virtual_time import in_virtual_time, running


class Counted:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def open_work(self) -> OpenWork:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return OpenWork(self.calls, 0, 0.0, 2, 0, 0.0)


@in_virtual_time
async def test_it_counts_at_once_then_regularly_and_soon_after_a_change(clock: VirtualClock) -> None:
    counted = Counted()
    counts = OpenWorkCounts(counted, clock)
    assert (counts.newest, counts.conflicts) == (None, None)
    async with running(counts.run()):
        await clock.sleep(PAUSE_S + COUNT_INTERVAL_S / 2)
        assert (counted.calls, counts.conflicts) == (1, 2)
        counts.record(Persisted(1, "a", "a"))
        await clock.sleep(0.1)
        assert counted.calls == 1
        counts.record(ProcessingFailed("a", "x", 2))
        await clock.sleep(0.1)
        assert counted.calls == 2
        await clock.sleep(PAUSE_S + COUNT_INTERVAL_S)
        assert counted.calls == 3


@in_virtual_time
async def test_the_last_counts_are_kept_while_postgresql_is_down(clock: VirtualClock) -> None:
    counted = Counted()
    counts = OpenWorkCounts(counted, clock)
    async with running(counts.run()):
        await clock.sleep(0.1)
        counted.error = Unavailable("down")
        await clock.sleep(3 * COUNT_INTERVAL_S)
        assert counted.calls > 1
        assert counts.newest is not None
        assert counts.newest.retrying == 1
