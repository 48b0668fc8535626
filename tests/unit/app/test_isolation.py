"""Tasks and blocks are cancelled reliably, even if users' code swallows cancellations."""

from __future__ import annotations

import asyncio

import pytest

from oncecast.app.isolation import cancel_on
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
