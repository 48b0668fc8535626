"""An event's data as what a handler asks for: dataclass, msgspec Struct, TypedDict, pydantic model, dict, bytes, …"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from oncecast.core.errors import DataInvalid
from oncecast.core.event import Event

Decode = Callable[[Event], Any]
ERRORS_SHOWN_MAX = 3


def decoder_of(wanted: Any) -> Decode:
    """What turns an event's data into `wanted`; that raises DataInvalid naming the path in the data.

    Raises TypeError for a type that no JSON can become.
    """
    if wanted is Any or wanted is object:
        return lambda event: event.data
    if wanted is bytes:
        return lambda event: event.raw_data if event.data_bytes is None else event.data_bytes
    if _is_pydantic(wanted):
        return _by_pydantic(wanted)
    if isinstance(msgspec.inspect.type_info(wanted), msgspec.inspect.CustomType):
        raise TypeError(f"{_named(wanted)} is nothing that JSON can become")
    return _by_msgspec(wanted)


def _by_msgspec(wanted: Any) -> Decode:
    decode = msgspec.json.Decoder(wanted).decode

    def decoded(event: Event) -> Any:
        try:
            return decode(_json_of(event))
        except msgspec.ValidationError as error:
            raise DataInvalid(f"the data does not fit {_named(wanted)}: {error}") from None

    return decoded


def _by_pydantic(wanted: Any) -> Decode:
    from pydantic import TypeAdapter, ValidationError

    validate = TypeAdapter(wanted).validate_json

    def decoded(event: Event) -> Any:
        try:
            return validate(_json_of(event))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            told = "; ".join(f"{e['msg']} - at `{_path(e['loc'])}`" for e in errors[:ERRORS_SHOWN_MAX])
            more = f"; and {len(errors) - ERRORS_SHOWN_MAX} more" if len(errors) > ERRORS_SHOWN_MAX else ""
            raise DataInvalid(f"the data does not fit {_named(wanted)}: {told}{more}") from None

    return decoded


def _json_of(event: Event) -> bytes:
    if event.data_bytes is not None:
        raise DataInvalid("the event's data is binary, and its handler asks for JSON")
    return event.raw_data or b"null"


def _is_pydantic(wanted: Any) -> bool:
    if hasattr(wanted, "__pydantic_core_schema__") or hasattr(wanted, "__pydantic_validator__"):
        return True
    return any(_is_pydantic(argument) for argument in typing.get_args(wanted))


def _path(places: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)


def _named(wanted: Any) -> str:
    return getattr(wanted, "__name__", None) or str(wanted)
