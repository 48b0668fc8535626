"""Ranges: the unit of agreement. Listeners lease runs of offsets, and PostgreSQL decides on each event in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from oncecast.core.event import IDENTITY_MAX_BYTES, Arrival
from oncecast.core.wire import Head, decode_head, decode_heads

if TYPE_CHECKING:
    from oncecast.core.positions import JournalPosition

RANGE_MAX_EVENTS = 1_000
EVENT_COST_BYTES = 768
"""Memory of an event in flight in addition to its text: Python objects, as measured (decision 039)."""
HANDLED_RANGE_EVENTS = 8
"""The size of a range if events are handled one by one: few, so that slow handlers are spread over the listeners."""


@dataclass(frozen=True, slots=True)
class RangeRules:
    """How the ranges of an application are cut, the same in all listeners of a group, and when they are decoded."""

    max_events: int
    decoded: bool
    """Whether a listener decodes every event; without handlers it decodes only the ranges that it works on."""


def range_rules(batch_sizes: Sequence[int]) -> RangeRules:
    """Return the rules for an application; `batch_sizes` has the maximum events per transaction of each handler."""
    if not batch_sizes:
        return RangeRules(RANGE_MAX_EVENTS, decoded=False)
    return RangeRules(min(max(HANDLED_RANGE_EVENTS, min(batch_sizes)), RANGE_MAX_EVENTS), decoded=True)


def cut(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last offset of each range of a frame with the offsets `first` to `last`.

    All listeners receive the same frames, so all cut alike. Where they do not, they lease different ranges, and
    PostgreSQL decides, as without leases.
    """
    for begin in range(first, last + 1, size):
        yield begin, min(begin + size - 1, last)


def checked_heads(raws: Sequence[msgspec.Raw]) -> list[Head]:
    """Return the heads of events. Raises ValueError for one with an identity that PostgreSQL cannot store."""
    text = b"[" + b",".join(raws) + b"]"
    heads = decode_heads(text)
    checked = heads
    if b"\\u0000" not in text:  # nearly always; then short identities need no check
        checked = [h for h in heads if len(h.id) + len(h.source) + len(h.type) > IDENTITY_MAX_BYTES // 4]
    for head in checked:
        for name in (head.id, head.source, head.type):
            if "\0" in name:
                raise ValueError(f"{name[:20]!r} holds a NUL")
            if len(name.encode()) > IDENTITY_MAX_BYTES:
                raise ValueError(f"{name[:20]!r} is longer than {IDENTITY_MAX_BYTES} bytes")
    return heads


def _id_of(raw: msgspec.Raw) -> str:
    try:
        return decode_head(raw).id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "?"


class EndedRange(NamedTuple):
    """A range whose events all have rows."""

    journal: str
    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class WholeRanges:
    """Undecoded ranges of one epoch, prepared by a store to be inserted together."""

    ranges: Sequence[Range]
    kinds: Mapping[tuple[str, str], int]
    """The number of events of each type and source."""
    rows: bytes = b""
    """The rows, in the store's own form."""


class Range(msgspec.Struct, eq=False, gc=False):
    """The offsets `first` to `last` of one journal and epoch, in a listener.

    `track` is the listener's position in that journal. `raws` are the new events of the range, by offset. Without
    handlers, a listener decodes them into `arrivals` only once it works on the range.
    """

    track: JournalPosition
    epoch: str
    first: int
    last: int
    first_new: int
    """The first offset that the listener had not received before."""
    at_us: int
    raws: list[msgspec.Raw]
    """Empty once decoded."""
    unended: int
    """The number of new events that have not ended."""
    cost_bytes: int
    """The credit of the events that are not decoded."""
    arrivals: list[Arrival] = []
    """The decoded events; empty once all have ended."""
    acquired: bool = False
    """Whether this listener works on the range: it has claimed it, with a lease or while Redis is away."""
    is_whole: bool = False
    """Whether it is queued or inserted as a whole: then its events are not decoded and queued as well."""
    leased: bool = False
    """Whether this listener has a lease for it in Redis."""
    renew_at_s: float = 0.0
    """When its lease must be renewed, on the monotonic clock."""
    takeovers: int = 0
    """How often it was taken over from an owner that died, as far as Redis knows."""
    is_recorded: bool = False
    """Whether PostgreSQL has recorded that all its events have rows."""
    suspected: bool = False
    """Whether the previous process may have died of one of its events: it is within a window of the cursor."""

    @property
    def size(self) -> int:
        """The number of its new events, ended or not."""
        return self.last - self.first_new + 1

    @property
    def first_id(self) -> str:
        """The id of the first new event, for people; "?" if it cannot be decoded."""
        return self.arrivals[0].id if self.arrivals else _id_of(self.raws[0])

    @property
    def last_id(self) -> str:
        """The id of the last new event, for people; "?" if it cannot be decoded."""
        return self.arrivals[-1].id if self.arrivals else _id_of(self.raws[-1])

    @property
    def is_open(self) -> bool:
        """Whether the range has events that have not ended, and its journal position is not superseded."""
        return self.unended > 0 and not self.track.is_superseded

    @property
    def ended(self) -> EndedRange:
        """The range, as recorded in PostgreSQL once all its events have rows."""
        return EndedRange(self.track.journal, self.epoch, self.first_new, self.last)

    @property
    def place(self) -> str:
        """The range as text, `EPOCH:FIRST-LAST`: the same in all listeners."""
        return f"{self.epoch}:{self.first}-{self.last}"

    def load(self, heads: Sequence[Head] | None = None) -> None:
        """Decode the events, unless that is done; `heads` are their heads, if known. Raises what `decoded` raises."""
        if self.raws:
            self.arrivals = self.decoded(heads)
            self.raws, self.cost_bytes = [], 0

    def decoded(self, heads: Sequence[Head] | None = None) -> list[Arrival]:
        """Return the events of an undecoded range.

        Raises msgspec.DecodeError for invalid heads, and ValueError for an identity that no producer accepts.
        """
        heads, track = checked_heads(self.raws) if heads is None else heads, self.track
        return [
            Arrival(
                track=track,
                range=self,
                offset=offset,
                at_us=self.at_us,
                id=head.id,
                source=head.source,
                type=head.type,
                # A copy: a slice would keep the whole frame in memory until the event ends.
                raw=raw.copy() if len(heads) > 1 else raw,
                cost_bytes=len(raw) + 1 + EVENT_COST_BYTES,
                epoch=self.epoch,
                journal=track.journal,
            )
            for offset, (head, raw) in enumerate(zip(heads, self.raws, strict=True), self.first_new)
        ]
