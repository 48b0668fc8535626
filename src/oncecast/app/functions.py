"""What may be a handler: a function, a method, a `functools.partial` of such, or an object that is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from oncecast.core.errors import ConfigError


def written(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it was written, whose annotations count and which is `async` or not."""
    inner = _without_partials(handler)
    function: Callable[..., Any] = inner if hasattr(inner, "__qualname__") else inner.__call__
    return function


def name_of(handler: Callable[..., Any]) -> str:
    """The function's name; of an object that is called, its class's."""
    inner = _without_partials(handler)
    name: str = getattr(inner, "__qualname__", type(inner).__qualname__)
    return name


def _without_partials(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def bound_in(handler: Callable[..., Any]) -> frozenset[str]:
    """The parameters that a partial has given by name already."""
    return frozenset(handler.keywords if isinstance(handler, partial) else ())


def check_function(handler: object) -> None:
    """Raise ConfigError unless it may be a handler."""
    if callable(handler) and not isinstance(handler, type):
        function = written(handler)
        if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            return
    name = getattr(handler, "__qualname__", repr(handler))
    raise ConfigError(
        f"handler {name} must be a function, 'async def' or 'def', that yields nothing; or an object that is called"
    )
