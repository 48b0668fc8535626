"""The lifespan of an application: objects that exist as long as the process, such as an HTTP client."""

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
from oncecast.core.telemetry import LifespanCutShort, Record

_DATA_MODULES = ("builtins", "typing", "collections", "collections.abc", "datetime", "decimal", "uuid")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a lifespan: it may begin until `stop` is set, and end within `end_within_s`, or that is emitted."""

    stop: asyncio.Event
    end_within_s: float
    record: Record


class Lifespan:
    """A lifespan function, which yields once. `yields` is the type that it yields, or None.

    Raises ConfigError if the function does not declare the type, or if a handler's data could have that type too.
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
                f"lifespan {self._name}: its annotation names {error.name!r}, which is not defined"
            ) from None
        arguments = typing.get_args(wanted)
        if typing.get_origin(wanted) not in (AsyncIterator, AsyncGenerator) or not arguments:
            raise ConfigError(
                f"lifespan {self._name} must declare what it yields: '-> AsyncIterator[Shop]', or AsyncIterator[None]"
            )
        self.yields = None if arguments[0] is type(None) else arguments[0]
        if self.yields is not None and _may_be_data(self.yields):
            # A handler's parameter of that type would get the state, although it means the event's data.
            raise ConfigError(
                f"lifespan {self._name} yields {named(self.yields)}, which could also be an event's data:"
                " yield a dataclass or another class of your own"
            )

    @asynccontextmanager
    async def begun(self, bounds: Bounds | None = None) -> AsyncIterator[Any]:
        """Run the lifespan around the block, with what it yields. Raises StartError if it fails to begin.

        If `bounds.stop` is set before it has begun, it is cancelled, and the block gets None.
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
        except Exception:  # classified: its own errors propagate, those caused by the cancellation do not
            if not deadline.expired():
                raise
        if deadline.expired():
            bounds.record(LifespanCutShort(self._name, bounds.end_within_s))


def _may_be_data(wanted: Any) -> bool:
    """Return whether `wanted` is or contains a common type: `dict`, `list[Shop]`, `Any`, …"""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_may_be_data(part) for part in typing.get_args(wanted) if part is not type(None))
    return getattr(typing.get_origin(wanted) or wanted, "__module__", "") in _DATA_MODULES
