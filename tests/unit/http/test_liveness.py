"""`/livez` answers 503 as soon as an essential task has ended or makes no progress."""

from __future__ import annotations

import asyncio

import pytest

from oncecast.http.liveness import liveness
from oncecast.http.problems import Problem
from oncecast.tasks import Essentials, working
from tests.support.clock import ManualClock


async def test_a_process_whose_essential_tasks_run_is_alive() -> None:
    begun = asyncio.Event()

    async def run() -> None:
        begun.set()
        await asyncio.Event().wait()

    essentials = Essentials(ManualClock(), end_within_s=1.0)
    task = essentials.start(run(), "the cursor saver")
    await begun.wait()
    assert liveness(essentials).status_code == 200
    await essentials.end([task])
    assert liveness(essentials).status_code == 200, "a task that the process itself ends is no failure"


async def test_a_process_whose_essential_task_has_failed_needs_a_restart() -> None:
    async def fail() -> None:
        raise ValueError("no such table")

    essentials = Essentials(ManualClock(), end_within_s=1.0)
    await asyncio.wait([essentials.start(fail(), "the cursor saver")])
    with pytest.raises(Problem) as caught:
        liveness(essentials)
    assert caught.value.status == 503
    assert "the cursor saver failed: ValueError: no such table; restart this process" in str(caught.value)


async def test_a_process_whose_essential_task_is_overdue_needs_a_restart() -> None:
    clock = ManualClock()
    begun = asyncio.Event()

    async def stall() -> None:
        working(30.0)
        begun.set()
        await asyncio.Event().wait()

    essentials = Essentials(clock, end_within_s=1.0)
    task = essentials.start(stall(), "the cursor saver")
    await begun.wait()
    assert liveness(essentials).status_code == 200
    clock.now_s += 31.0
    with pytest.raises(Problem) as caught:
        liveness(essentials)
    assert (caught.value.status, "the cursor saver is stalled" in str(caught.value)) == (503, True)
    await essentials.end([task])
