"""Calls from a client in memory to its server, which a simulation can delay, lose or refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

Act = Callable[[], Any]
"""What a call does at the server: at once, or, if it returns an awaitable, when that is done."""
ServerCall = Callable[[Act], Awaitable[Any]]
"""Runs an act and returns its result; raises OSError or TimeoutError if the result is unknown."""


async def at_once(act: Act) -> Any:
    """Run the act without faults."""
    result = act()
    return await result if isawaitable(result) else result
