"""The CloudEvents 1.0 event that users create and handle."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
import uuid_utils

from oncecast.core.event import DEFAULT_SOURCE, KNOWN_MEMBERS

_NO_DATA = msgspec.Raw(b"")


class Known(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event without extensions; an event that has some does not decode as this."""

    id: str
    source: str
    type: str
    specversion: str = "1.0"
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: msgspec.Raw = _NO_DATA
    data_base64: str | None = None


_decode_known = msgspec.json.Decoder(Known).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _plain(value: Any) -> Any:
    """Encode what msgspec cannot: a pydantic model, recognised without importing pydantic."""
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json")
    raise TypeError(
        f"Encoding objects of type {type(value).__name__} is unsupported: data is a dict, list, dataclass,"
        " msgspec.Struct, pydantic model or the like"
    )


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""Return the JSON of users' data; of a pydantic model its `model_dump`. Raises TypeError if there is none."""


def new_id() -> str:
    """Return a new event id, `evt_` + UUIDv7: later ids sort later."""
    return f"evt_{uuid_utils.uuid7()}"


class Emitted:
    """An emitted event with its final id. Awaiting it is allowed and has no effect."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event

    def __await__(self) -> Generator[None, None, Event]:
        yield from ()
        return self.event


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A CloudEvents 1.0 event. Create one with `Event.new`, or parse JSON with `Event.from_json`.

    `data` is decoded at the first access. `time` is an RFC 3339 text. `extensions` are additional attributes: texts,
    whole numbers or booleans.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    raw_data: bytes = b""
    """The data as JSON, as it was received; empty without data."""
    data_bytes: bytes | None = None
    """Binary data (`data_base64` on the wire), instead of JSON data."""
    emitter: Callable[[Event], Event] | None = field(default=None, repr=False, compare=False)
    """Takes the follow-ups; only an event that was passed to a handler has one."""

    @classmethod
    def new(
        cls,
        type: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str = DEFAULT_SOURCE,
        **attributes: Any,
    ) -> Self:
        """Create an event of `type` with `data`: anything with a JSON form, or `bytes`.

        A pydantic model is stored as its `model_dump(mode="json")`. Raises TypeError for data without a JSON form.

        Without `id`, the event gets a new id here (UUIDv7: later ids sort later). So publishing the same object twice
        is one event.
        """
        binary = isinstance(data, bytes)
        return cls(
            id=new_id() if id is None else id,
            source=source,
            type=type,
            raw_data=b"" if binary or data is None else encode(data),
            data_bytes=data if binary else None,
            **attributes,
        )

    @classmethod
    def from_json(
        cls, body: bytes | memoryview | msgspec.Raw, emitter: Callable[[Event], Event] | None = None
    ) -> Self:
        """Parse a structured event that a producer has validated. Raises msgspec.DecodeError for anything else."""
        extensions: dict[str, Any] = {}
        try:
            known = _decode_known(body)
        except msgspec.ValidationError:
            members = _decode_members(body)
            data = members.pop("data", _NO_DATA)  # it may be large: do not encode it again
            for name in [name for name in members if name not in KNOWN_MEMBERS]:
                value = msgspec.json.decode(members.pop(name))
                if value is not None:
                    extensions[name] = value
            known = _decode_known(msgspec.json.encode(members))
            known.data = data
        raw_data = bytes(known.data)
        return cls(
            id=known.id,
            source=known.source,
            type=known.type,
            subject=known.subject,
            time=known.time,
            datacontenttype=known.datacontenttype,
            dataschema=known.dataschema,
            extensions=extensions,
            raw_data=b"" if raw_data == b"null" else raw_data,
            data_bytes=None if known.data_base64 is None else b64decode(known.data_base64),
            emitter=emitter,
        )

    @property
    def data(self) -> Any:
        """The decoded JSON data, or the bytes of a binary event; None without data."""
        if self.data_bytes is not None:
            return self.data_bytes
        return msgspec.json.decode(self.raw_data) if self.raw_data else None

    def emit(self, event: Event) -> Emitted:
        """Publish `event` exactly once: it commits with the row of the handled event, or not at all.

        The id is derived from the handled event, the application, the handler and the number of the emission; an id
        that `event` has already is ignored. You may await the call, but need not.

        Raises ValueError for an event that no producer would accept, TypeError for anything but an Event, and
        RuntimeError if this event was not passed to a handler.
        """
        if self.emitter is None:
            raise RuntimeError("only the event passed to a handler can emit; elsewhere use oncecast.Publisher")
        if not isinstance(event, Event):
            raise TypeError(
                f"emit takes an oncecast.Event, not {type(event).__name__}:"
                " event.emit(Event.new('order.reserved', data))"
            )
        return Emitted(self.emitter(event))

    def to_json(self) -> bytes:
        """Return the structured CloudEvents JSON, as sent over the network."""
        members: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        for name in ("subject", "time", "datacontenttype", "dataschema"):
            if (value := getattr(self, name)) is not None:
                members[name] = value
        members.update(self.extensions)
        if self.data_bytes is not None:
            members["data_base64"] = b64encode(self.data_bytes).decode()
        elif self.raw_data:
            members["data"] = msgspec.Raw(self.raw_data)
        return encode(members)
