"""The functions behind handlers: a handler is a function, a method, a `functools.partial` or a callable object."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from oncecast.core.errors import ConfigError


def written(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the underlying function, whose annotations and `async` count."""
    inner = _without_partials(handler)
    function: Callable[..., Any] = inner if hasattr(inner, "__qualname__") else inner.__call__
    return function


def name_of(handler: Callable[..., Any]) -> str:
    """Return the function's name, or the class name of a callable object."""
    inner = _without_partials(handler)
    name: str = getattr(inner, "__qualname__", type(inner).__qualname__)
    return name


def _without_partials(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def bound_in(handler: Callable[..., Any]) -> frozenset[str]:
    """Return the keyword parameters that a partial has already bound."""
    return frozenset(handler.keywords if isinstance(handler, partial) else ())


def check_function(handler: object) -> None:
    """Raise ConfigError unless `handler` can be a handler."""
    if callable(handler) and not isinstance(handler, type):
        function = written(handler)
        if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            return
    name = getattr(handler, "__qualname__", repr(handler))
    raise ConfigError(
        f"handler {name} must be a function, 'async def' or 'def', that yields nothing; or a callable object"
    )
