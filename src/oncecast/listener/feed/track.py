"""The listener's position in one journal: how far it has received, which events have ended, what is saved.

A track belongs to one history of a journal. When the journal has a divergent history (it was restored from a
backup), or rows are missing, the feed starts a new track, and the old one is superseded; its events in flight end on
their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from oncecast.core.cursors import cursor_at
from oncecast.core.event import IDENTITY_MAX_BYTES, Arrival, Cursor
from oncecast.core.ranges import Range, cut
from oncecast.core.watermark import Watermark
from oncecast.core.wire import Epoch, Events, Gap, Head, decode_heads, epoch_of

_NO_BYTES = msgspec.Raw(b"")
EVENT_COST_BYTES = 768
"""Memory of an event in flight in addition to its text: Python objects, as measured (decision 039)."""
ENDED_COST_BYTES = 512
"""The part of an ordered event's credit that is kept until the cursor has passed it: one stuck event keeps the turns
of all behind it in memory, which must have a bound."""
KEYS_PRUNED_AT_MIN = 1_000


def _decode_heads(raws: Sequence[msgspec.Raw]) -> list[Head]:
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


def cost_bytes(frame: Events, text: bytes) -> int:
    """Return the credit that `frame`, whose undecoded form is `text`, takes."""
    return len(text) + EVENT_COST_BYTES * len(frame.events)


def _to_nobody(_count: int) -> None:
    """Ignore credit of a superseded track: its successor starts with the whole window."""


class Track:
    """The arrivals of one journal in order of offset, from the saved cursor on, and their credit."""

    def __init__(
        self,
        journal: str,
        epochs: Sequence[Epoch],
        after: int,
        on_credit: Callable[[int], None],
        incarnation: str | None = None,
    ) -> None:
        self.journal = journal
        self.incarnation = incarnation
        """The incarnation of PostgreSQL from which the saved cursor was read: rows of another one may be lost.

        None for any."""
        self.epochs = list(epochs)
        self.saved = self.cursor_at(after)
        self.watermark = Watermark(after)
        self.first = 1
        """The oldest offset that the producer still has."""
        self.distrusted_to = 0
        """Up to this offset, done markers are ignored: PostgreSQL had lost rows of marked events."""
        self.suspected_bytes = 0
        """Bytes still to come that the previous process may have died of."""
        self.abandoned = asyncio.Event()
        """Set when the journal has a divergent history or rows are missing: another track replaces this one."""
        self.fault: str | None = None
        """What was wrong with what the producer sent."""
        self.newest_of_key: dict[str, Arrival] = {}
        """The newest ordered event of each key, until the cursor has passed it."""
        self.followers: dict[Arrival, Arrival] = {}
        """For each ordered event that has not ended, the next event of its key, which waits for it."""
        self._keys_pruned_at = KEYS_PRUNED_AT_MIN
        self.gaps: deque[Gap] = deque()
        """Gaps of the journal that the cursor has not passed yet."""
        self.abandoned_bytes = 0
        """Of a superseded track: the bytes of arrivals that have neither ended nor been dropped."""
        self.ranges: set[Range] = set()
        """The ranges with events that have not ended."""
        self._ordered: deque[Arrival] = deque()
        """The ordered events that the cursor has not passed."""
        self._on_credit = on_credit

    def cursor_at(self, offset: int) -> Cursor:
        """Return the cursor of `offset` in this journal's history."""
        return cursor_at(self.epochs, offset)

    @property
    def in_flight(self) -> int:
        """Received offsets above the watermark."""
        return self.watermark.received - self.watermark.value

    def receive(self, frame: Events, text: bytes, range_size: int, *, decode: bool = True) -> list[Range]:
        """Return the new events of `frame`, whose undecoded form is `text`, without those received before.

        Raises msgspec.DecodeError for invalid heads, and ValueError for a frame that skips offsets or has an
        identity that no producer accepts; without `decode`, `load` does.
        """
        if self.abandoned.is_set():
            return []
        due = max(self.watermark.received + 1, self.first)
        if frame.offset > due or not frame.events:
            raise ValueError(f"{len(frame.events)} events from offset {frame.offset}, where {due} is due")
        heads = _decode_heads(frame.events) if decode else []
        last = frame.offset + len(frame.events) - 1
        first_new = self.watermark.arrive(frame.offset, last)
        epoch = epoch_of(self.epochs, frame.offset)
        ranges: list[Range] = []
        for first, range_last in cut(frame.offset, last, range_size):
            begin, end = max(first, first_new) - frame.offset, range_last + 1 - frame.offset
            if begin < end:
                raws = frame.events[begin:end]
                each = Range(
                    track=self,
                    epoch=epoch,
                    first=first,
                    last=range_last,
                    first_new=frame.offset + begin,
                    at_us=frame.at,
                    raws=raws,
                    unended=len(raws),
                    cost_bytes=sum(map(len, raws)) + (1 + EVENT_COST_BYTES) * len(raws),
                    suspected=self.suspected_bytes > 0,
                )
                ranges.append(each)
        frame_cost = cost_bytes(frame, text)
        self.suspected_bytes = max(0, self.suspected_bytes - frame_cost)
        self.ranges.update(ranges)
        # Credit counts whole frames: the overhead of the frame returns at once.
        self._on_credit(frame_cost - sum(each.cost_bytes for each in ranges))
        if decode:
            for each in ranges:
                begin = each.first_new - frame.offset
                self._set_arrivals(each, heads[begin : begin + len(each.raws)])
        return ranges

    def load(self, each: Range) -> None:
        """Decode the events of a range, unless that is done. Raises what `receive` raises."""
        if each.raws:
            self._set_arrivals(each, _decode_heads(each.raws))

    def _set_arrivals(self, each: Range, heads: Sequence[Head]) -> None:
        each.arrivals = [
            Arrival(
                track=self,
                offset=offset,
                at_us=each.at_us,
                id=head.id,
                source=head.source,
                type=head.type,
                # A copy: a slice would keep the whole frame in memory until the event ends.
                raw=raw.copy() if len(heads) > 1 else raw,
                cost_bytes=len(raw) + 1 + EVENT_COST_BYTES,
                epoch=each.epoch,
                journal=self.journal,
                range=each,
            )
            for offset, (head, raw) in enumerate(zip(heads, each.raws, strict=True), each.first_new)
        ]
        each.raws, each.cost_bytes = [], 0

    def skip(self, gap: Gap) -> None:
        """Record a gap; offsets received before are ignored. Raises ValueError as `receive` does."""
        due = max(self.watermark.received + 1, self.first)
        if gap.first > due:
            raise ValueError(f"a gap from offset {gap.first}, where {due} is due")
        if gap.last >= due:
            if self.gaps and self.gaps[-1].last == self.watermark.received:
                # Merge adjacent gaps: the number of gaps in memory is bounded by the number of events.
                gap = Gap(first=self.gaps.pop().first, last=gap.last)
            self.watermark.arrive(gap.last + 1, gap.last)
            # rule: a gap is recorded before the cursor passes it
            self.gaps.append(gap)

    def hold(self, ordered: Arrival) -> None:
        """Keep an ordered event until the cursor has passed it: later events of its key refer to its turn."""
        self._ordered.append(ordered)

    def abandon(self) -> None:
        """Mark this track as superseded: its attempts finish, and its other events and its cursor are dropped."""
        self.abandoned.set()
        # rule: events of a superseded journal position are dropped
        for each in self.ranges:
            each.raws = []
            busy = [arrival for arrival in each.arrivals if arrival.busy and not arrival.gone]
            self.abandoned_bytes += sum(arrival.cost_bytes for arrival in busy)
            each.arrivals.clear()  # they reference it: a cycle that the garbage collector does not see
        self.ranges.clear()
        self._ordered.clear()
        self.newest_of_key.clear()
        self.followers.clear()
        self._on_credit = _to_nobody

    def drop(self, arrival: Arrival) -> None:
        """Stop counting an arrival of a superseded track that nothing references any more."""
        if self.abandoned.is_set() and arrival.raw is not _NO_BYTES:
            self.abandoned_bytes -= arrival.cost_bytes
            arrival.raw = _NO_BYTES

    def end(self, arrivals: Sequence[Arrival]) -> None:
        """Free the payloads of ended arrivals."""
        freed_bytes = 0
        for arrival in arrivals:
            self.drop(arrival)
            kept_bytes = min(arrival.cost_bytes, ENDED_COST_BYTES) if arrival.turn is not None else 0
            freed_bytes += arrival.cost_bytes - kept_bytes
            arrival.raw, arrival.cost_bytes = _NO_BYTES, kept_bytes
        # rule: credit returns to the producer when events end
        self._on_credit(freed_bytes + self._forget())

    def end_undecoded(self, ended: Range) -> None:
        """Free the events of a range that has ended elsewhere before it was decoded."""
        ended.raws, ended.unended = [], 0
        self.ranges.discard(ended)
        self._on_credit(ended.cost_bytes)

    def fail(self, fault: str) -> None:
        """Disconnect from the producer, which has sent an invalid event."""
        self.fault = fault
        self.abandon()

    def record(self, ended: Range) -> None:
        """Move the watermark over a range that PostgreSQL has recorded as ended."""
        self.watermark.end(ended.first_new, ended.last)

    @property
    def recorded(self) -> int:
        """The offset up to which PostgreSQL has recorded all ranges, or up to the first gap."""
        return min(self.watermark.value, self.gaps[0].first - 1) if self.gaps else self.watermark.value

    def save(self, cursor: Cursor) -> None:
        """Record that the saved cursor is `cursor`, in terms of this journal's history."""
        if cursor.offset <= self.saved.offset:
            return
        self.saved = cursor
        while self.gaps and self.gaps[0].last <= cursor.offset:
            self.gaps.popleft()
        if self.gaps and self.gaps[0].first <= cursor.offset:  # the gap grew while its beginning was passed
            self.gaps[0] = Gap(first=cursor.offset + 1, last=self.gaps[0].last)
        self._on_credit(self._forget())
        if len(self.newest_of_key) > self._keys_pruned_at:
            self.newest_of_key = {k: a for k, a in self.newest_of_key.items() if a.offset > cursor.offset}
            self._keys_pruned_at = max(KEYS_PRUNED_AT_MIN, 2 * len(self.newest_of_key))

    def _forget(self) -> int:
        """Release ordered arrivals up to the saved cursor; return their credit."""
        freed_bytes = 0
        while self._ordered and self._ordered[0].offset <= min(self.saved.offset, self.watermark.value):
            gone = self._ordered.popleft()
            freed_bytes += gone.cost_bytes
            if gone.turn is not None:
                gone.turn.before = None  # not needed behind a saved cursor, and the chain of a busy key would grow
        return freed_bytes
