"""Calls from a client in memory to its server, which a simulation can delay, lose or refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from inspect import isawaitable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, overload

Act = Callable[[], Any]
"""What a call does at the server: at once, or, if it returns an awaitable, when that is done."""
ServerCall = Callable[[Act], Awaitable[Any]]
"""Runs an act and returns its result; raises OSError or TimeoutError if the result is unknown."""


class Caller(Protocol):
    """A client of a server in memory."""

    def _do(self, act: Act, /) -> Awaitable[Any]: ...


P = ParamSpec("P")
T = TypeVar("T")
CallerT = TypeVar("CallerT", bound=Caller)
Called: TypeAlias = Callable[Concatenate[CallerT, P], Coroutine[Any, Any, T]]


async def at_once(act: Act) -> Any:
    """Run the act without faults."""
    result = act()
    return await result if isawaitable(result) else result


@overload
def at_server(act: Called[CallerT, P, T]) -> Called[CallerT, P, T]: ...
@overload
def at_server(act: Callable[Concatenate[CallerT, P], T]) -> Called[CallerT, P, T]: ...
def at_server(act: Callable[Concatenate[CallerT, P], Any]) -> Called[CallerT, P, Any]:
    """Make a method run at the server, in one call."""

    @wraps(act)
    async def call(client: CallerT, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await client._do(partial(act, client, *args, **kwargs))

    return call
