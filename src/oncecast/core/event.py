"""CloudEvents 1.0 events; the identity of an event is `(source, id)`.

Users create and handle an `Event`. A listener passes an `Arrival` from station to station: the same event as
undecoded bytes, with its place in a journal. `Known` is for decoding.
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
"""The attributes that CloudEvents 1.0 defines; every other member except `data` and `data_base64` is an extension."""

KNOWN_MEMBERS = CONTEXT_ATTRIBUTES | {"data", "data_base64"}
DEFAULT_SOURCE = "/oncecast"
PRODUCER_SOURCE = "/oncecast/producer"
ACCEPTED, REFUSED = "oncecast.accepted", "oncecast.refused"
"""Source and types of a producer's answers to plain clients; nobody else may publish them."""

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
    """Encode what msgspec cannot: a pydantic model, recognised without importing pydantic."""
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json")
    raise TypeError(
        f"Encoding objects of type {type(value).__name__} is unsupported: data is a dict, list, dataclass,"
        " msgspec.Struct, pydantic model or the like"
    )


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""Return the JSON of users' data; of a pydantic model its `model_dump`. Raises TypeError if there is none."""


def with_data(raw: bytes | msgspec.Raw, data: bytes) -> bytes:
    """Return the structured event `raw` with its data replaced by the JSON `data`.

    Raises msgspec.DecodeError if `raw` is not a JSON object.
    """
    members = _decode_members(raw)
    members.pop("data_base64", None)
    return msgspec.json.encode({**members, "data": msgspec.Raw(data)})


def new_id() -> str:
    """Return a new event id, `evt_` + UUIDv7: later ids sort later."""
    return f"evt_{uuid_utils.uuid7()}"


def follow_up_id(source: str, id: str, app: str, handler: str, index: int) -> str:
    """Return the id of the `index`-th event that `handler` of `app` emits for the event `(source, id)`.

    It is the same in every attempt. It depends on `app`, because two groups may have handlers of the same name.
    """
    return "evt_" + blake2b("\0".join((source, id, app, handler, str(index))).encode(), digest_size=16).hexdigest()


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


@dataclass(slots=True, eq=False)
class Turn:
    """The position of an ordered event among the events of its key: it may begin when all `before` it have rows.

    `key` is the attribute or path that the event is ordered by, with its value: `subject="a"`, `data.account=7`. The
    event came from `offset` of `epoch`, from the journal whose state the listener keeps in `track`.
    """

    key: str
    source: str
    id: str
    epoch: str
    offset: int
    track: Any
    before: Turn | None = None
    """The turn of the previous event of the key in the journal, if known."""

    @property
    def identity(self) -> tuple[str, str]:
        """The source and id of the event."""
        return self.source, self.id

    def rows_needed(self) -> Iterator[Turn]:
        """Yield the turns before it, the nearest first, back to the saved cursor.

        Earlier events had their rows, which may have been pruned since.
        """
        turn = self.before
        while turn is not None and turn.offset > turn.track.saved.offset:
            yield turn
            turn = turn.before

    def has_come(self, rows: Mapping[tuple[str, str], tuple[str, int]]) -> bool:
        """Return whether all events before it have rows; `rows` maps an identity to the row's epoch and offset.

        A row from its turn's own place proves that all events before it have rows. A row from another place (the
        event was published again) proves nothing about the events in between.
        """
        for turn in self.rows_needed():
            place = rows.get(turn.identity)
            # rule: a row from another position proves nothing about the events in between
            if place is None or place == (turn.epoch, turn.offset):
                return place is not None
        return True


class Arrival(msgspec.Struct, eq=False, gc=False):
    """An event in a listener.

    `raw` is its structured JSON, as received. When the event has ended, `cost_bytes` go back to the producer as
    credit. `track` is the listener's state of the journal that the event came from.
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
    """Attempts spent so far."""
    pauses: int = 0
    """Database errors since its last spent attempt during which other events ended."""
    others_ended: int = 0
    """The count of all ended events when the database last failed for this one."""
    terminal_error: BaseException | None = None
    """Why the event must become a dead letter, once that is decided."""
    takeovers: int = 0
    """How often it was taken over from a dead lease owner, as far as Redis knows."""
    doubted: bool = False
    """Whether the previous process may have died of it: it is within a window of the cursor."""
    leased: bool = False
    """Whether this listener has a lease for it in Redis."""
    renew_at_s: float = 0.0
    """When its lease must be renewed, on the monotonic clock."""
    epoch: str = ""
    journal: str = ""
    turn: Turn | None = None
    """Set if a handler of the event is ordered."""
    retried: bool = False
    """Whether the database has failed for it."""
    compared: Any = None
    """The outcome of comparing it with the row of its identity, while it waits to end with that outcome."""
    held_up: bool = False
    """Whether its last attempt failed because of another transaction's lock."""

    @property
    def identity(self) -> str:
        """Source and id as one text, separated by NUL, which neither can contain."""
        return f"{self.source}\0{self.id}"

    @property
    def cursor(self) -> str:
        """The event's place, `EPOCH:OFFSET`."""
        return f"{self.epoch}:{self.offset}"
