"""Check an event's attributes against CloudEvents 1.0 and Oncecast's limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from oncecast.core.event import ACCEPTED, CONTEXT_ATTRIBUTES, IDENTITY_MAX_BYTES, PRODUCER_SOURCE, REFUSED
from oncecast.http.problems import Problem

_RESERVED_TYPES = (ACCEPTED, REFUSED)
_KNOWN = CONTEXT_ATTRIBUTES | {"data"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EXTENSION = re.compile(r"[a-z0-9]{1,64}")
_TIME = re.compile(
    r"(?P<minute>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:)(?P<second>\d\d)(?:\.(?P<fraction>\d{1,12}))?"
    r"(?P<zone>[Zz]|[+-](?P<hours>\d\d):[0-5]\d)",
    re.ASCII,
)
_USUAL_TIME = re.compile(
    r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:[01][1-9]|10|2[0-8])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,12})?Z"
)
"""Valid times, without the last days of months."""
_OFFSET_MAX_HOURS = 15
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
"""Also needs a length that is a multiple of four; Python's decoder accepts excess padding."""


def check_text(text: str, place: str) -> None:
    """Raise Problem 422 unless `text` has 1 to IDENTITY_MAX_BYTES bytes and no control characters."""
    if text.isprintable() and 0 < len(text) <= IDENTITY_MAX_BYTES // 4:
        return  # the usual case: no character has more than four bytes
    if not text:
        raise Problem(422, f"{place} is empty")
    if len(text.encode()) > IDENTITY_MAX_BYTES:
        raise Problem(422, f"{place} has more than {IDENTITY_MAX_BYTES} bytes")
    if _CONTROL.search(text):
        raise Problem(422, f"{place} contains a control character")


def is_reserved(source: str, type: object) -> bool:
    """Return whether only a producer may send this event, so that its answers to plain clients cannot be forged."""
    return type in _RESERVED_TYPES or source == PRODUCER_SOURCE or source.startswith(PRODUCER_SOURCE + "/")


def reserved(place: str) -> Problem:
    """Return the refusal of a reserved event."""
    names = f"the source {PRODUCER_SOURCE} and the types {' and '.join(_RESERVED_TYPES)}"
    return Problem(422, f"{place}: {names} are reserved for the answers of producers")


class _Members(msgspec.Struct, gc=False):
    """The types to which later readers decode an event's members."""

    id: str
    source: str
    type: str
    specversion: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data_base64: str | None = None


_decode_members = msgspec.json.Decoder(_Members).decode


def check_members(raw: bytes | msgspec.Raw, index: int, place: Callable[[int], str]) -> None:
    """Raise Problem 422 if a member is given twice, and an earlier value has a wrong type.

    The last of several members with one name counts, as in PostgreSQL, but typed readers decode all of them.
    """
    try:
        _decode_members(raw)
    except msgspec.ValidationError as error:
        raise Problem(422, f"{place(index)}: a member is given twice, once with a wrong type: {error}") from None


def check_structured(value: dict[str, Any], index: int, place: Callable[[int], str]) -> None:
    """Raise Problem 422 unless `value` is a CloudEvents 1.0 event that can be stored."""
    if value["specversion"] != "1.0":
        raise Problem(422, f'{place(index)}: "specversion" must be "1.0"')
    for name in ("id", "source", "type"):
        text = value.get(name)
        if type(text) is not str:
            raise Problem(422, f'{place(index)}: "{name}" must be a string')
        if not text.isprintable() or not 0 < len(text) <= IDENTITY_MAX_BYTES // 4:
            check_text(text, f'{place(index)}: "{name}"')
    if is_reserved(value["source"], value["type"]):
        raise reserved(place(index))
    if len(value) > 4 + ("data" in value):
        _check_optional(value, place(index))


def _check_optional(value: dict[str, Any], place: str) -> None:
    for name in ("subject", "datacontenttype", "dataschema"):
        text = value.get(name)
        if text is not None:
            if type(text) is not str:
                raise Problem(422, f'{place}: "{name}" must be a string')
            check_text(text, f'{place}: "{name}"')
    if (time := value.get("time")) is not None:
        check_time(time, f'{place}: "time"')
    if (base64 := value.get("data_base64")) is not None:
        _check_base64(base64, place, beside_data=value.get("data") is not None)
    if not value.keys() <= _KNOWN:
        for name in value.keys() - _KNOWN - {"data_base64"}:
            _check_extension(name, value[name], place)


def is_usual_time(time: str) -> bool:
    """Return whether a time has the usual form, in which every time is valid."""
    return _USUAL_TIME.fullmatch(time) is not None


def check_time(time: object, place: str) -> None:
    """Raise Problem 422 unless `time` is an RFC 3339 time in the years 1 to 9999 in UTC."""
    if isinstance(time, str) and is_usual_time(time):
        return
    match = _TIME.fullmatch(time) if isinstance(time, str) else None
    if match is None or int(match["hours"] or 0) > _OFFSET_MAX_HOURS:
        raise Problem(422, f"{place} must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z")
    leap = match["second"] == "60"  # PostgreSQL reads it as the next minute, but rejects a fraction of it
    second = "59" if leap else match["second"]
    try:
        if leap and (match["fraction"] or "").strip("0"):
            raise ValueError("a fraction of a leap second")
        instant = datetime.fromisoformat(f"{match['minute']}{second}{match['zone']}".upper())
        # PostgreSQL may round up, and the result must still be in the year 9999.
        (instant + timedelta(seconds=leap or bool(match["fraction"]))).astimezone(UTC)
        instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem(422, f"{place} is not a time in the years 1 to 9999") from None


def _check_base64(base64: object, place: str, *, beside_data: bool) -> None:
    if beside_data:
        raise Problem(422, f'{place}: "data" and "data_base64" exclude each other')
    if not isinstance(base64, str) or len(base64) % 4 or not _BASE64.fullmatch(base64):
        raise Problem(422, f'{place}: "data_base64" is not base64 (RFC 4648, padded, without line breaks)')


def _check_extension(name: str, value: object, place: str) -> None:
    if not _EXTENSION.fullmatch(name):
        raise Problem(
            422,
            f"{place}: attribute {name[:64]!r}: names are a-z and 0-9 only; the rest goes into data",
        )
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if len(value) > 64 * 1024 or _CONTROL.search(value):
            raise Problem(422, f'{place}: "{name}" is too long or contains a control character')
    elif not (isinstance(value, int) and -(2**31) <= value < 2**31):
        raise Problem(422, f'{place}: "{name}" must be a string, a boolean or a 32-bit integer')
