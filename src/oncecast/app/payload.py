"""An event's data as what a handler asks for: dataclass, msgspec Struct, TypedDict, pydantic model, dict, bytes, …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from oncecast.app.type_hints import bare, checks_of, is_pydantic, named, parts_of, unserved
from oncecast.core.errors import DataInvalid
from oncecast.core.event import Event
from oncecast.core.transaction import SyncTransaction, Transaction

Decode = Callable[[Event], Any]
ERRORS_SHOWN_MAX = 3


def decoder_of(wanted: Any) -> Decode:
    """What turns an event's data into `wanted`; that raises DataInvalid naming the path in the data.

    Raises TypeError for a type that no JSON can become, NameError for one whose annotations name what is not known.
    """
    kind = bare(wanted)
    if kind is bytes and checks_of(wanted):
        raise TypeError("bytes are given as they came: what Annotated asks of them is the handler's to check")
    parts = parts_of(wanted)
    for part in parts:
        if part is Event:
            raise TypeError("Event is given as it is, or to @app.on_batch as list[Event]")
        if part is Transaction or part is SyncTransaction:
            raise TypeError(f"{part.__name__} is given as it is")
    if _needs_pydantic(parts):
        return _by_pydantic(wanted)
    if kind is bytes:
        return lambda event: event.raw_data if event.data_bytes is None else event.data_bytes
    for place, type_ in unserved(wanted):
        what = f"{place} is of type {named(type_)}, which is" if place else f"{named(type_)} is"
        raise TypeError(f"{what} nothing that JSON can become: take what the JSON has, or a pydantic type")
    if kind is Any or kind is object:
        return lambda event: event.data
    return _by_msgspec(wanted)


def _needs_pydantic(parts: Sequence[Any]) -> bool:
    if not any(map(is_pydantic, parts)):
        return False
    if any(isinstance(part, msgspec.Meta) for part in parts):
        raise TypeError("msgspec.Meta is nothing to pydantic, which has to read this: write pydantic.Field instead")
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
        raise TypeError("pydantic would check it, and is not installed: pip install 'oncecast[pydantic]'") from None
    try:
        adapter = TypeAdapter(wanted)
        adapter.rebuild()
    except PydanticUserError as error:
        raise TypeError(f"pydantic's types are in it, and pydantic cannot serve it: {_sentence(error)}") from None
    validate = adapter.validate_json

    def decoded(event: Event) -> Any:
        try:
            return validate(_json_of(event))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            told = "; ".join(f"{e['msg']} - at `{_path(e['loc'])}`" for e in errors[:ERRORS_SHOWN_MAX])
            more = f"; and {len(errors) - ERRORS_SHOWN_MAX} more" if len(errors) > ERRORS_SHOWN_MAX else ""
            raise _misfit(event, wanted, told + more) from None

    return decoded


def _misfit(event: Event, wanted: Any, told: str) -> DataInvalid:
    """With what to do where bare JSON was meant to be an event with data of its own."""
    data = event.data
    is_whole = isinstance(data, dict) and {"type", "data"} <= data.keys() and "specversion" not in data
    hint = (
        '; bare JSON is data as a whole: what has its data in "data" needs "specversion": "1.0"' if is_whole else ""
    )
    return DataInvalid(f"the data does not fit {named(wanted)}: {told}{hint}")


def _json_of(event: Event) -> bytes:
    if event.data_bytes is not None:
        raise DataInvalid("the event's data is binary, and its handler asks for JSON")
    return event.raw_data or b"null"


def _path(places: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]
