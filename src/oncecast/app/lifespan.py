"""What an application has from the start of its process to its end, such as a client of another service."""

from __future__ import annotations

import asyncio
import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from oncecast.app.isolation import cancel_on
from oncecast.app.type_hints import named
from oncecast.core.errors import ConfigError, OncecastError, StartError
from oncecast.core.telemetry import Emit, LifespanCutShort

_DATA_MODULES = ("builtins", "typing", "collections", "collections.abc", "datetime", "decimal", "uuid")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a lifespan may take: to begin, until `stop` is set; to end, `end_within_s`, or that is observed."""

    stop: asyncio.Event
    end_within_s: float
    emit: Emit


class Lifespan:
    """A function that yields once. `yields` is the type of what it yields; None if that is nothing.

    Raises ConfigError if it does not say so, or if a handler's data may be of that type too.
    """

    def __init__(self, function: Callable[..., Any] | None, app: object) -> None:
        self.yields: Any = None
        self._function = function
        self._app = app
        if function is None:
            return
        self._name = getattr(function, "__qualname__", repr(function))
        inner = inspect.unwrap(function)
        if not inspect.isasyncgenfunction(inner):
            raise ConfigError(f"lifespan {self._name} must be an 'async def' that yields once")
        self._takes_app = bool(inspect.signature(inner).parameters)
        try:
            wanted = typing.get_type_hints(inner).get("return")
        except NameError as error:
            raise ConfigError(
                f"lifespan {self._name}: its annotation names {error.name!r}, which is not known"
            ) from None
        arguments = typing.get_args(wanted)
        if typing.get_origin(wanted) not in (AsyncIterator, AsyncGenerator) or not arguments:
            raise ConfigError(
                f"lifespan {self._name} must say what it yields: '-> AsyncIterator[Shop]', or AsyncIterator[None]"
            )
        self.yields = None if arguments[0] is type(None) else arguments[0]
        if self.yields is not None and _may_be_data(self.yields):
            # A handler's parameter of that type would get the state, though it means the event's data.
            raise ConfigError(
                f"lifespan {self._name} yields {named(self.yields)}, which an event's data may be too:"
                " let it be a dataclass or another class of your own"
            )

    @asynccontextmanager
    async def begun(self, bounds: Bounds | None = None) -> AsyncIterator[Any]:
        """What it yields, within. Raises StartError if it cannot begin.

        If `bounds.stop` is set before it has begun, it never does, and what is within has nothing to run with.
        """
        if self._function is None:
            yield None
            return
        made = self._function(self._app) if self._takes_app else self._function()
        context: AbstractAsyncContextManager[Any] = (
            made if isinstance(made, AbstractAsyncContextManager) else asynccontextmanager(lambda: made)()
        )
        begun: list[Any] = []
        if bounds is None:
            begun.append(await self._begin(context))
        else:
            async with cancel_on(bounds.stop):
                begun.append(await self._begin(context))
        try:
            yield begun[0] if begun else None
        finally:
            if begun:
                await self._end(context, bounds)

    async def _begin(self, context: AbstractAsyncContextManager[Any]) -> Any:
        try:
            return await context.__aenter__()
        except (Exception, SystemExit) as error:  # whatever users' code raises: the application cannot start
            raise StartError(f"lifespan {self._name}: {type(error).__name__}: {error}") from error

    async def _end(self, context: AbstractAsyncContextManager[Any], bounds: Bounds | None) -> None:
        if bounds is None:
            await context.__aexit__(None, None, None)
            return
        try:
            async with asyncio.timeout(bounds.end_within_s) as deadline:
                await context.__aexit__(None, None, None)
        except SystemExit as error:
            raise OncecastError(f"lifespan {self._name} ended with SystemExit: {error}") from error
        except Exception:  # classified: its own goes on its way, what it makes of being cut short does not
            if not deadline.expired():
                raise
        if deadline.expired():
            bounds.emit(LifespanCutShort(self._name, bounds.end_within_s))


def _may_be_data(wanted: Any) -> bool:
    """Whether it is, or may be, of a type that everybody has: `dict`, `list[Shop]`, `Any`, …"""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_may_be_data(part) for part in typing.get_args(wanted) if part is not type(None))
    return getattr(typing.get_origin(wanted) or wanted, "__module__", "") in _DATA_MODULES
