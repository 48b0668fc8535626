"""Resolve a handler's parameters by their annotations, when the handler is registered.

A parameter gets the `Event`, the `Transaction` (`SyncTransaction` in a plain `def`), or the lifespan's state by its
type; any other annotation is for the event's data. A batch handler gets lists: `list[Event]`, or `list[Order]` for
the data of each. `Annotated` adds checks of the data. A parameter with a default and no annotation keeps its default.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from oncecast.app.functions import bound_in, name_of, written
from oncecast.app.payload import decoder_of
from oncecast.app.type_hints import bare, checks_of, named
from oncecast.core.errors import ConfigError
from oncecast.core.transaction import SyncTransaction, Transaction
from oncecast.event import Event


@dataclass(frozen=True, slots=True)
class Given:
    """The values for a handler's parameters: its events (one, unless it takes batches), transaction and state."""

    events: Sequence[Event]
    tx: Any
    state: Any


Serve = Callable[[Given], Any]
FOREIGN = frozenset(("Context", "Depends", "Security"))
"""Markers of other frameworks, which would otherwise be taken for the event's data."""


class Arguments:
    """The parameters of `handler` and how to get their values. Raises ConfigError that names an invalid parameter.

    `state` is the type that the lifespan yields, or None. `names` are further names for annotations, in addition to
    those of the handler's module.
    """

    def __init__(
        self, handler: Callable[..., Any], *, in_batches: bool, state: Any, names: Mapping[str, Any] | None = None
    ) -> None:
        self._handler = name_of(handler)
        self._is_async = inspect.iscoroutinefunction(written(handler))
        self._in_batches = in_batches
        self._state = state
        self._serves: list[tuple[str, Serve]] = []
        self._data: str | None = None
        self._names = dict(names or {})
        annotations = self._annotations(written(handler))
        bound = bound_in(handler)
        for parameter in inspect.signature(handler).parameters.values():
            if parameter.name in bound:
                continue
            serve = self._serve(parameter, annotations.get(parameter.name, parameter.empty))
            if serve is not None:
                self._serves.append((parameter.name, serve))

    def of(self, given: Given) -> dict[str, Any]:
        """Return the keyword arguments of a call. Raises DataInvalid."""
        return {name: serve(given) for name, serve in self._serves}

    def _annotations(self, handler: Callable[..., Any]) -> dict[str, Any]:
        """Return the resolved annotations of the parameters, without the return type."""
        known = getattr(inspect.unwrap(handler), "__globals__", {})
        hints: dict[str, Any] = {}
        try:
            annotations = inspect.get_annotations(handler)
        except NameError as error:  # Python 3.14 evaluates them here
            raise ConfigError(
                f"handler {self._handler}: an annotation names {error.name!r}, which is not defined"
            ) from None
        for name, annotation in annotations.items():
            if name == "return":
                continue
            one = SimpleNamespace(__annotations__={name: annotation})
            try:
                hints |= typing.get_type_hints(one, known, self._names, include_extras=True)
            except NameError as error:
                raise self._refusal(name, f"its annotation names {error.name!r}, which is not defined") from None
            except (AttributeError, SyntaxError, TypeError) as error:
                raise self._refusal(name, f"its annotation {annotation!r} cannot be read: {error}") from None
        return hints

    def _serve(self, parameter: inspect.Parameter, wanted: Any) -> Serve | None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise self._refusal(
                name, "arguments are passed by name: no *args, **kwargs or positional-only parameters"
            )
        if wanted is parameter.empty:
            wanted = self._known_by_name(name)
        if wanted is parameter.empty:
            if parameter.default is not parameter.empty:
                return None
            raise self._refusal(name, "it has no annotation")
        kind = bare(wanted)
        if kind is Transaction or kind is SyncTransaction:
            return self._serve_transaction(name, kind)
        if self._state is not None and kind == self._state:
            return lambda given: given.state
        self._check_data(parameter, wanted)
        return self._serve_batch(name, wanted) if self._in_batches else self._serve_event(name, wanted)

    def _check_data(self, parameter: inspect.Parameter, wanted: Any) -> None:
        """Raise ConfigError for an annotation that would mean the event's data, but is hardly meant so."""
        metadata = (*typing.get_args(wanted)[1:], parameter.default)
        foreign = next((type(part).__name__ for part in metadata if type(part).__name__ in FOREIGN), None)
        if foreign:
            raise self._refusal(
                parameter.name, f"{foreign} is of another framework; to share objects, yield them from the lifespan"
            )
        if self._state is not None and self._state in typing.get_args(bare(wanted)):
            raise self._refusal(
                parameter.name, f"the lifespan always yields {named(self._state)}: annotate just that"
            )
        if parameter.default is not parameter.empty and bare(wanted) is not Event:
            raise self._refusal(
                parameter.name,
                "it would get the event's data, and never its default: remove the default; or remove the annotation,"
                " to keep the default",
            )

    def _known_by_name(self, name: str) -> Any:
        if name == "tx":
            return Transaction if self._is_async else SyncTransaction
        if name == "event":
            return list[Event] if self._in_batches else Event
        return inspect.Parameter.empty

    def _serve_transaction(self, name: str, kind: type) -> Serve:
        if kind is SyncTransaction and self._is_async:
            raise self._refusal(name, "an 'async def' takes a Transaction; SyncTransaction is for a plain 'def'")
        if kind is Transaction and not self._is_async:
            raise self._refusal(name, "a plain 'def' takes a SyncTransaction; Transaction is for an 'async def'")
        return lambda given: given.tx

    def _serve_event(self, name: str, wanted: Any) -> Serve:
        if bare(wanted) is Event:
            return lambda given: given.events[0]
        decode = self._decoder(name, wanted)
        return lambda given: decode(given.events[0])

    def _serve_batch(self, name: str, wanted: Any) -> Serve:
        arguments = typing.get_args(bare(wanted))
        if typing.get_origin(bare(wanted)) not in (list, Sequence) or len(arguments) != 1:
            raise self._refusal(name, "a batch handler takes lists: list[Event], or list[Order] for the data of each")
        if checks_of(wanted):
            raise self._refusal(name, "a batch has the events that have arrived: only max_events can limit it")
        if bare(arguments[0]) is Event:
            return lambda given: list(given.events)
        decode = self._decoder(name, arguments[0])
        return lambda given: [decode(event) for event in given.events]

    def _decoder(self, name: str, wanted: Any) -> Callable[[Event], Any]:
        if self._data is not None:
            raise self._refusal(name, f"parameter {self._data!r} already takes the event's data")
        self._data = name
        try:
            return decoder_of(wanted)
        except NameError as error:
            raise self._refusal(name, f"an annotation in it names {error.name!r}, which is not defined") from None
        except TypeError as error:
            raise self._refusal(name, f"{error}") from None

    def _refusal(self, name: str, why: str) -> ConfigError:
        return ConfigError(f"handler {self._handler}, parameter {name!r}: {why}")
