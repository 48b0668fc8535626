"""What an event is: a CloudEvents 1.0 event, whose identity is `(source, id)`.

Two shapes of it live here, and one to read it by, `Known`. `Event` is what users hold: made by publishers, given to
handlers. `Arrival` is what a listener's stations pass along: the same event as undecoded bytes, with its place in a
journal.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import msgspec
import uuid_utils

IDENTITY_MAX_BYTES = 512
"""Ids, sources, types and subjects are 1 to this many bytes of UTF-8, without control characters."""

CONTEXT_ATTRIBUTES = frozenset(
    ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
)
"""What CloudEvents 1.0 names; any other member but `data` and `data_base64` is an extension."""

KNOWN_MEMBERS = CONTEXT_ATTRIBUTES | {"data", "data_base64"}
DEFAULT_SOURCE = "/oncecast"
PRODUCER_SOURCE = "/oncecast/producer"
ACCEPTED, REFUSED = "oncecast.accepted", "oncecast.refused"
"""Source and types of a producer's own answers to plain clients: nobody else may publish them."""

_NO_DATA = msgspec.Raw(b"")


class Known(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event without extensions: decoding one as this tells cheaply whether it has any."""

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


class Cursor(NamedTuple):
    """A position in a journal: the reader has read `offset` (0: nothing) of `epoch`."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `EPOCH:OFFSET`. Raises ValueError if the text has another form."""
        epoch, colon, offset = text.rpartition(":")
        if not (colon and epoch.isalnum() and text.isascii() and offset.isdigit() and len(offset) <= 18):
            raise ValueError(f"a cursor is EPOCH:OFFSET, not {text[:80]!r}")
        return cls(epoch, int(offset))


def _plain(value: Any) -> Any:
    """What msgspec does not know how to encode; pydantic is nothing that we import for it."""
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json")
    raise TypeError(
        f"Encoding objects of type {type(value).__name__} is unsupported: data is a dict, list, dataclass,"
        " msgspec.Struct, pydantic model or the like"
    )


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""The JSON of what users give; of a pydantic model what it dumps itself as. Raises TypeError for what has none."""


def with_data(raw: bytes | msgspec.Raw, data: bytes) -> bytes:
    """Return the structured event `raw` with the JSON `data` instead of what it carried, readable or not.

    Raises msgspec.DecodeError if `raw` is no JSON object.
    """
    members = _decode_members(raw)
    members.pop("data_base64", None)
    return msgspec.json.encode({**members, "data": msgspec.Raw(data)})


def new_id() -> str:
    """A fresh event id, `evt_` + UUIDv7: ids made later sort later."""
    return f"evt_{uuid_utils.uuid7()}"


def follow_up_id(source: str, id: str, app: str, handler: str, index: int) -> str:
    """The id of the `index`-th event that `handler` of `app` emitted for the event `(source, id)`, every time.

    The application is in it, for those of two groups may call a handler the same.
    """
    return "evt_" + blake2b("\0".join((source, id, app, handler, str(index))).encode(), digest_size=16).hexdigest()


class Emitted:
    """An event that has been emitted, under the id that it has got. To await it is not needed, and does nothing."""

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
    """What takes its follow-ups; only an event that a handler is given has one."""

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

        Without `id`, the event gets a random id here. So publishing the same object twice is one event.
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
            data = members.pop("data", _NO_DATA)  # not to be copied for its neighbours' sake
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
            raise RuntimeError("only the event that a handler was given can emit; elsewhere use oncecast.Publisher")
        if not isinstance(event, Event):
            raise TypeError(
                f"emit takes an oncecast.Event, not {type(event).__name__}:"
                " event.emit(Event.new('order.reserved', data))"
            )
        return Emitted(self.emitter(event))

    def to_json(self) -> bytes:
        """Return the structured CloudEvents JSON, as it is sent over the network."""
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


@dataclass(slots=True, eq=False)
class Turn:
    """An ordered event's place among those of its key: it may begin when all `before` it have their rows.

    `key` names the place that the event is ordered by and what stands there: `subject="a"`, `data.account=7`.
    It came from `offset` of `epoch`, by the journal that `track` is the listener's record of.
    """

    key: str
    source: str
    id: str
    epoch: str
    offset: int
    track: Any
    before: Turn | None = None
    """Of the event before it in its journal, if that is known."""

    @property
    def identity(self) -> tuple[str, str]:
        """Source and id of its event."""
        return self.source, self.id

    def rows_needed(self) -> Iterator[Turn]:
        """The turns before it, the nearest first, back to where a cursor was saved.

        What lies behind that had its row, which may have been pruned by now.
        """
        turn = self.before
        while turn is not None and turn.offset > turn.track.saved.offset:
            yield turn
            turn = turn.before

    def has_come(self, rows: Mapping[tuple[str, str], tuple[str, int]]) -> bool:
        """Whether all before it have rows; `rows` are epoch and offset that those came from, by identity.

        A row that came from its turn's own place says that all before that have theirs. One that came by another
        place (the event was published again) says nothing about what stands between.
        """
        for turn in self.rows_needed():
            place = rows.get(turn.identity)
            # rule: a row from another position proves nothing about the events in between
            if place is None or place == (turn.epoch, turn.offset):
                return place is not None
        return True


class Arrival(msgspec.Struct, eq=False, gc=False):
    """An event on its way through a listener.

    `raw` is its structured JSON, as received. `cost_bytes` is given back to the producer as credit when it
    has ended. `track` is the listener's record of the journal that it came from.
    """

    track: Any
    offset: int
    at_us: int
    id: str
    source: str
    type: str
    raw: msgspec.Raw
    cost_bytes: int
    attempts: int = 0
    """Attempts that were spent on it so far."""
    pauses: int = 0
    """Times, since its last attempt was spent, that it failed alone on the database while others ended."""
    others_ended: int = 0
    """How many had ended, all told, when the database last failed under it."""
    terminal_error: BaseException | None = None
    """Why it is to be buried, once that is decided."""
    takeovers: int = 0
    """How often it was rescued from a dead holder, as far as Redis knows."""
    doubted: bool = False
    """Whether the process before may have died of it: it lies within a window of the cursor."""
    leased: bool = False
    """Whether our token stands in Redis for it."""
    renew_at_s: float = 0.0
    """When, on the monotonic clock, its lease wants to be renewed."""
    epoch: str = ""
    journal: str = ""
    turn: Turn | None = None
    """Set if a handler asked for order."""
    retried: bool = False
    """Whether the database has failed under it."""
    compared: Any = None
    """The outcome of a comparison with the row of its identity, while it waits for its turn to end so."""
    held_up: bool = False
    """Whether the last that came of it is that another transaction's lock was in its way."""

    @property
    def identity(self) -> str:
        """Source and id as one text; neither can hold the NUL between them."""
        return f"{self.source}\0{self.id}"

    @property
    def cursor(self) -> str:
        """Its place, `EPOCH:OFFSET`."""
        return f"{self.epoch}:{self.offset}"
