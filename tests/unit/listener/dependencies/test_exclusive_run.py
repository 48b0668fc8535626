"""Attempts run shared or exclusively, and each gets its turn."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from oncecast.listener.dependencies.exclusive_run import ExclusiveRun


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=12))
def test_an_exclusive_run_runs_alone_and_all_runs_get_their_turn(
    runs: list[tuple[bool, int, int, bool]],
) -> None:
    """In any order of arrival, for any duration, with or without cancellation."""
    running: list[bool] = []
    ran: list[int] = []

    async def run(exclusive_run: ExclusiveRun, number: int, alone: bool, begins_after: int, takes: int) -> None:
        for _ in range(begins_after):
            await asyncio.sleep(0)
        async with exclusive_run.exclusive() if alone else exclusive_run.shared():
            running.append(alone)
            assert not any(running) or len(running) == 1
            for _ in range(takes):
                await asyncio.sleep(0)
            running.remove(alone)
            ran.append(number)

    async def main() -> None:
        exclusive_run = ExclusiveRun()
        tasks = [asyncio.create_task(run(exclusive_run, n, *args[:3])) for n, args in enumerate(runs)]
        for task, (_, begins_after, _, is_cancelled) in zip(tasks, runs, strict=True):
            if is_cancelled and begins_after == 5:
                task.cancel()
        async with asyncio.timeout(120):
            await asyncio.gather(*tasks, return_exceptions=True)
        expected = [
            n for n, (_, begins_after, _, cancelled) in enumerate(runs) if not (cancelled and begins_after == 5)
        ]
        assert sorted(ran) == expected

    asyncio.run(main())
