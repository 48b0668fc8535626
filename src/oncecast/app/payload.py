"""Decode an event's data to a handler's type: dataclass, msgspec Struct, TypedDict, pydantic model, dict, bytes, …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from oncecast.app.type_hints import bare, checks_of, is_pydantic, named, parts_of, unserved
from oncecast.core.errors import DataInvalid
from oncecast.core.transaction import SyncTransaction, Transaction
from oncecast.event import Event

Decode = Callable[[Event], Any]
ERRORS_SHOWN_MAX = 3


def decoder_of(wanted: Any) -> Decode:
    """Return a function that decodes an event's data to `wanted`, or raises DataInvalid that names the path.

    Raises TypeError for a type that JSON cannot be decoded to, NameError for an undefined name in its annotations.
    """
    kind = bare(wanted)
    if kind is bytes and checks_of(wanted):
        raise TypeError("bytes are passed unchanged: Annotated cannot check them; check them in the handler")
    parts = parts_of(wanted)
    for part in parts:
        if part is Event:
            raise TypeError("annotate it as Event alone, or for @app.on_batch as list[Event]")
        if part is Transaction or part is SyncTransaction:
            raise TypeError(f"annotate it as {part.__name__} alone")
    if _needs_pydantic(parts):
        return _by_pydantic(wanted)
    if kind is bytes:
        return lambda event: event.raw_data if event.data_bytes is None else event.data_bytes
    for place, type_ in unserved(wanted):
        what = f"{place} is of type {named(type_)}, which is" if place else f"{named(type_)} is"
        raise TypeError(f"{what} no type that JSON can be decoded to: use a JSON type, or a pydantic type")
    if kind is Any or kind is object:
        return lambda event: event.data
    return _by_msgspec(wanted)


def _needs_pydantic(parts: Sequence[Any]) -> bool:
    if not any(map(is_pydantic, parts)):
        return False
    if any(isinstance(part, msgspec.Meta) for part in parts):
        raise TypeError("pydantic, which has to read this, ignores msgspec.Meta: use pydantic.Field instead")
    return True


def _by_msgspec(wanted: Any) -> Decode:
    decode = msgspec.json.Decoder(wanted).decode

    def decoded(event: Event) -> Any:
        try:
            return decode(_json_of(event))
        except msgspec.ValidationError as error:
            raise _misfit(event, wanted, str(error)) from None

    return decoded


def _by_pydantic(wanted: Any) -> Decode:
    try:
        from pydantic import PydanticUserError, TypeAdapter, ValidationError
    except ImportError:
        raise TypeError("it needs pydantic, which is not installed: pip install 'oncecast[pydantic]'") from None
    try:
        adapter = TypeAdapter(wanted)
        adapter.rebuild()
    except PydanticUserError as error:
        raise TypeError(f"it has pydantic types, but pydantic cannot decode it: {_sentence(error)}") from None
    validate = adapter.validate_json

    def decoded(event: Event) -> Any:
        try:
            return validate(_json_of(event))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            shown = "; ".join(f"{e['msg']} - at `{_path(e['loc'])}`" for e in errors[:ERRORS_SHOWN_MAX])
            more = f"; and {len(errors) - ERRORS_SHOWN_MAX} more" if len(errors) > ERRORS_SHOWN_MAX else ""
            raise _misfit(event, wanted, shown + more) from None

    return decoded


def _misfit(event: Event, wanted: Any, reason: str) -> DataInvalid:
    """Return the error, with a hint if bare JSON was meant to be an event with data."""
    data = event.data
    is_whole = isinstance(data, dict) and {"type", "data"} <= data.keys() and "specversion" not in data
    hint = (
        '; all of a bare JSON object is data: for an event with "data" add "specversion": "1.0"' if is_whole else ""
    )
    return DataInvalid(f"the data does not fit {named(wanted)}: {reason}{hint}")


def _json_of(event: Event) -> bytes:
    if event.data_bytes is not None:
        raise DataInvalid("the event's data is binary, but its handler needs JSON")
    return event.raw_data or b"null"


def _path(places: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]
