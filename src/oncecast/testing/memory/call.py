"""How a client in memory reaches its server: the seam at which a simulation delays, loses and refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

Act = Callable[[], Any]
"""What happens at the server: at once, or, if it returns an awaitable, once that is over."""
ServerCall = Callable[[Act], Awaitable[Any]]
"""Has an act happen and returns its result; raises OSError or TimeoutError where that cannot be known."""


async def at_once(act: Act) -> Any:
    """A call that nothing befalls."""
    result = act()
    return await result if isawaitable(result) else result
