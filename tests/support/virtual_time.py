"""Tests in virtual time: it passes at once where nothing is left to do, so that no test waits."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec

from oncecast.tasks import cancel_all
from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop

P = ParamSpec("P")


def in_virtual_time(
    test: Callable[Concatenate[VirtualClock, P], Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """Run `test` on an event loop of its own, in virtual time; its first argument is the clock of that loop."""

    @functools.wraps(test)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(test(VirtualClock(loop, seed=0), *arguments, **options))
        finally:
            loop.abandon()

    signature = inspect.signature(test)
    fixtures = list(signature.parameters.values())[1:]
    run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
    return run


@asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run one of the listener's loops during the block; raise its error if it ended with one."""
    task = asyncio.create_task(loop)
    try:
        yield
        if task.done():
            task.result()
    finally:
        await cancel_all([task])
