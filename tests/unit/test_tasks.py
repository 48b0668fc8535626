"""Essential tasks take their process along, and every task ends, whatever libraries do with a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.tasks import (
    CANCEL_INTERVAL_S,
    Essentials,
    EssentialTaskEnded,
    cancel_all,
    idle,
    run_until_first_end,
    working,
)


class Swallows:
    """A task that swallows its first cancellations, as redis-py does on Python 3.11."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.ended = False

    async def run(self) -> None:
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.left -= 1
                    if self.left < 0:
                        raise
        finally:
            self.ended = True


async def fail(error: BaseException) -> None:
    raise error


async def wait() -> None:
    await asyncio.Event().wait()


async def test_an_essential_task_that_fails_ends_all_although_another_swallows_its_cancellation() -> None:
    essentials, stubborn = Essentials(SYSTEM_CLOCK, end_within_s=10), Swallows(3)
    essentials.start(stubborn.run(), "stubborn")
    essentials.start(fail(ValueError("out of range")), "claim loop")
    async with asyncio.timeout(120):
        with pytest.raises(ValueError, match="out of range"):
            await essentials.run(wait())
    assert stubborn.ended


async def test_a_task_that_never_ends_does_not_keep_the_others_from_ending() -> None:
    essentials, endless = Essentials(SYSTEM_CLOCK, end_within_s=0.2), Swallows(10**9)
    task = essentials.start(endless.run(), "endless")
    essentials.start(fail(ValueError("x")), "claim loop")
    async with asyncio.timeout(120):
        with pytest.raises(ValueError, match="x"):
            await essentials.run(wait())
    assert not task.done()
    endless.left = 0
    await cancel_all([task])


async def test_what_main_does_at_its_end_is_not_cut_short_when_an_essential_task_fails() -> None:
    essentials, closed, ended = Essentials(SYSTEM_CLOCK, end_within_s=30), asyncio.Event(), []
    essentials.start(fail(ValueError("x")), "claim loop")

    async def main() -> None:
        try:
            await wait()
        finally:
            asyncio.get_running_loop().call_later(3 * CANCEL_INTERVAL_S, closed.set)
            await closed.wait()
            ended.append("lifespan")

    with pytest.raises(ValueError, match="x"):
        await essentials.run(main())
    assert ended == ["lifespan"]


async def test_an_essential_task_that_begins_later_ends_all_too() -> None:
    essentials = Essentials(SYSTEM_CLOCK, end_within_s=10)

    async def main() -> None:
        essentials.start(fail(KeyError("k")), "feed")
        await wait()

    with pytest.raises(KeyError):
        await essentials.run(main())


@pytest.mark.parametrize("how", ["returns", "is cancelled"])
async def test_an_essential_task_that_ends_without_an_error_is_named(how: str) -> None:
    essentials = Essentials(SYSTEM_CLOCK, end_within_s=10)
    task = essentials.start(asyncio.sleep(0) if how == "returns" else wait(), "heartbeat")
    if how == "is cancelled":
        asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(EssentialTaskEnded, match="heartbeat"):
        await essentials.run(wait())
    assert essentials.trouble is not None
    assert essentials.trouble.startswith("heartbeat")


async def test_tasks_that_are_ended_on_purpose_are_no_failure() -> None:
    essentials = Essentials(SYSTEM_CLOCK, end_within_s=10)

    async def main() -> str:
        tasks = [essentials.start(wait(), "feed"), essentials.start(Swallows(2).run(), "worker")]
        await asyncio.sleep(0)
        await essentials.end(tasks)
        return "drained"

    assert await essentials.run(main()) == "drained"
    assert essentials.trouble is None


async def test_the_error_of_main_comes_out_and_ends_the_essential_tasks() -> None:
    essentials, stubborn = Essentials(SYSTEM_CLOCK, end_within_s=10), Swallows(1)
    essentials.start(stubborn.run(), "stubborn")

    async def main() -> None:
        await asyncio.sleep(0)
        raise ValueError("main")

    with pytest.raises(ValueError, match="main"):
        await essentials.run(main())
    assert stubborn.ended


async def test_a_task_that_misses_its_own_deadline_is_stalled() -> None:
    essentials, round_over = Essentials(SYSTEM_CLOCK, end_within_s=10), asyncio.Event()

    async def rounds() -> None:
        working(within_s=0.0)
        await round_over.wait()
        idle()
        await wait()

    task = essentials.start(rounds(), "cursor saver")
    await asyncio.sleep(0)
    while essentials.trouble is None:
        await asyncio.sleep(0)
    assert "cursor saver is stalled" in essentials.trouble
    round_over.set()
    while essentials.trouble:
        await asyncio.sleep(0)
    await essentials.end([task])


async def test_a_cancelled_caller_still_ends_all_tasks_first() -> None:
    stubborn = Swallows(3)
    task = asyncio.create_task(stubborn.run())
    await asyncio.sleep(0)
    ending = asyncio.create_task(cancel_all([task]))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    assert (ending.cancelled(), task.cancelled()) == (True, True)


async def test_the_side_that_ends_first_decides_and_the_others_have_ended_then() -> None:
    stubborn = Swallows(2)
    with pytest.raises(ConnectionError, match="reset"):
        await run_until_first_end(stubborn.run(), fail(ConnectionError("reset")))
    assert stubborn.ended
