"""An event in a listener: undecoded bytes with their place in a journal. Its identity is `(source, id)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

if TYPE_CHECKING:
    from oncecast.core.positions import JournalPosition
    from oncecast.core.ranges import Range

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


def with_data(raw: bytes | msgspec.Raw, data: bytes) -> bytes:
    """Return the structured event `raw` with its data replaced by the JSON `data`.

    Raises msgspec.DecodeError if `raw` is not a JSON object.
    """
    members = _decode_members(raw)
    members.pop("data_base64", None)
    return msgspec.json.encode({**members, "data": msgspec.Raw(data)})


def with_id(raw: bytes, id: str) -> bytes:
    """Return the structured event `raw` with another id. Raises msgspec.DecodeError as `with_data` does."""
    return msgspec.json.encode({**_decode_members(raw), "id": id})


def follow_up_id(source: str, id: str, app: str, handler: str, index: int) -> str:
    """Return the id of the `index`-th event that `handler` of `app` emits for the event `(source, id)`.

    It is the same in every attempt. It depends on `app`, because two groups may have handlers of the same name.
    """
    return "evt_" + blake2b("\0".join((source, id, app, handler, str(index))).encode(), digest_size=16).hexdigest()


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
    track: JournalPosition
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

    track: JournalPosition
    range: Range
    """The range that it belongs to."""
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
    waits: bool = False
    """Whether it waits for the previous event of its key."""
    busy: bool = False
    """Whether it is queued, attempted, or about to be attempted again."""
    gone: bool = False
    """Whether it has ended, or was dropped because its journal position is superseded."""
    epoch: str = ""
    journal: str = ""
    turn: Turn | None = None
    """Set if a handler of the event is ordered."""
    retried: bool = False
    """Whether the database has failed for it."""
    lock_timeout: bool = False
    """Whether its last attempt failed because another transaction had locked its row."""

    @property
    def identity(self) -> str:
        """Source and id as one text, separated by NUL, which neither can contain."""
        return f"{self.source}\0{self.id}"

    @property
    def cursor(self) -> str:
        """The event's place, `EPOCH:OFFSET`."""
        return f"{self.epoch}:{self.offset}"
