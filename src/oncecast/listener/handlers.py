"""Users' business logic: which handlers are concerned with an event, and how they are called."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from oncecast.core.errors import ConfigError
from oncecast.core.event import Arrival, Event
from oncecast.core.ports import Transaction

OWN_TYPES = "oncecast."
"""How the types of Oncecast's own events begin."""

Handler = Callable[[Event, Transaction], Awaitable[Any]]
HandlerT = TypeVar("HandlerT", bound=Handler)


class Listener:
    """An application: a name (which is its group's, unless told otherwise) and its handlers.

    >>> app = Listener("shop")
    >>> @app.on("order.created")
    ... async def reserve_stock(event: Event, tx: Transaction) -> None:
    ...     await tx.execute("update stock set free = free - 1 where sku = %s", (event.data["sku"],))
    """

    def __init__(self, name: str = "oncecast") -> None:
        self.name = name
        self._handlers: dict[str, list[Handler]] = defaultdict(list)

    def on(self, *types: str) -> Callable[[HandlerT], HandlerT]:
        """Have the decorated `async def handler(event, tx)` run for each event of these types, exactly once.

        What it writes on `tx` commits together with the event's row or not at all. Several handlers of one
        type run in the order of their definition, in one transaction. Raises ConfigError for a signature that
        cannot be served.
        """
        if not types or not all(isinstance(name, str) and name for name in types):
            raise ConfigError("@app.on needs the event types to handle, such as @app.on('order.created')")

        def register(handler: HandlerT) -> HandlerT:
            _check_signature(handler)
            for name in types:
                self._handlers[name].append(handler)
            return handler

        return register

    @property
    def selectors(self) -> frozenset[str]:
        """The types that it handles, without Oncecast's own."""
        return frozenset(name for name in self._handlers if not name.startswith(OWN_TYPES))

    def concerns(self, type: str) -> bool:
        """Whether any handler is concerned with events of `type`."""
        return type in self._handlers

    async def handle(self, arrival: Arrival, tx: Transaction, *, timeout_s: float) -> None:
        """Run the handlers of `arrival` in order; raises what they raise, TimeoutError after `timeout_s`."""
        event = Event.from_json(arrival.raw)
        async with asyncio.timeout(timeout_s):
            for handler in self._handlers[arrival.type]:
                await handler(event, tx)


def _check_signature(handler: Callable[..., Any]) -> None:
    name = getattr(handler, "__qualname__", repr(handler))
    if not inspect.iscoroutinefunction(handler):
        raise ConfigError(f"handler {name} must be an 'async def': only that can write on the event's transaction")
    parameters = inspect.signature(handler).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required_keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if required_keywords or len(positional) != 2:
        raise ConfigError(f"handler {name} must take two parameters, (event, tx), and no others")
