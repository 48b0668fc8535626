"""Calls from a client in memory to its server, which a simulation can delay, lose or refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Protocol, TypeVar

Act = Callable[[], Any]
ResultT = TypeVar("ResultT")


class ServerCall(Protocol):
    """Runs an act at the server and returns its result; raises OSError or TimeoutError if the result is unknown.

    The act ends at once, or, if it returns an awaitable, when that is done.
    """

    async def __call__(self, act: Callable[[], ResultT | Awaitable[ResultT]], /) -> ResultT:
        """Run `act`."""


async def at_once(act: Callable[[], ResultT | Awaitable[ResultT]], /) -> ResultT:
    """Run the act without faults."""
    result = act()
    return await result if isawaitable(result) else result
