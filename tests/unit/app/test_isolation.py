"""Tasks and blocks are cancelled reliably, even if users' code swallows cancellations."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from oncecast.app.isolation import RunOptions, cancel_on, run_isolated
from oncecast.clock import SYSTEM_CLOCK
from oncecast.tasks import cancel_all


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(120):
        await cancel_all([task])
    assert (swallowed, task.cancelled()) == (2, True)


async def test_a_block_is_cancelled_when_the_event_is_set_and_ends_normally_otherwise() -> None:
    stop, ended = asyncio.Event(), []
    async with cancel_on(stop):
        ended.append("by itself")
    with pytest.raises(ConnectionError):
        async with cancel_on(stop):
            raise ConnectionError
    asyncio.get_running_loop().call_soon(stop.set)
    async with cancel_on(stop):
        await asyncio.Event().wait()
        ended.append("never")
    assert ended == ["by itself"]


async def test_errors_of_a_cancelled_block_are_suppressed() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    async with cancel_on(stop):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("no connection") from None


async def test_a_handler_that_is_cancelled_before_its_first_step_leaves_no_warning() -> None:
    async def handle() -> None:
        raise AssertionError

    def cancel_others(test: asyncio.Task[None] | None) -> None:
        for task in asyncio.all_tasks() - {test}:
            task.cancel()

    async def run() -> None:
        await run_isolated(handle(), RunOptions(timeout_s=1.0, cancel_again_s=1.0, clock=SYSTEM_CLOCK))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        task = asyncio.create_task(run())
        asyncio.get_running_loop().call_soon(cancel_others, asyncio.current_task())
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        gc.collect()
    assert not warned
