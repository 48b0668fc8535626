"""The feed's view of a journal position: how far it has received, and what it still has to receive.

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
from oncecast.core.event import Cursor
from oncecast.core.positions import JournalPosition
from oncecast.core.ranges import EVENT_COST_BYTES, Range, checked_heads, cut
from oncecast.core.wire import Epoch, Events, Gap, epoch_of

_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
KEYS_PRUNED_AT_MIN = 1_000


def _own(raws: Sequence[msgspec.Raw]) -> list[msgspec.Raw]:
    """Return copies of the events of a range that share one piece of memory."""
    own: list[msgspec.Raw] = _decode_raws(b"[" + b",".join(raws) + b"]")
    return own


def cost_bytes(frame: Events, text: bytes) -> int:
    """Return the credit that `frame`, whose undecoded form is `text`, takes."""
    return len(text) + EVENT_COST_BYTES * len(frame.events)


class Track(JournalPosition):
    """The arrivals of one journal in order of offset."""

    def __init__(
        self,
        journal: str,
        epochs: Sequence[Epoch],
        after: int,
        on_credit: Callable[[int], None],
        incarnation: str | None = None,
    ) -> None:
        super().__init__(journal, cursor_at(epochs, after), on_credit, incarnation)
        self.epochs = list(epochs)
        self.first = 1
        """The oldest offset that the producer still has."""
        self.suspected_bytes = 0
        """Bytes still to come that the previous process may have died of."""
        self.abandoned = asyncio.Event()
        """Set when the track is superseded."""
        self._keys_pruned_at = KEYS_PRUNED_AT_MIN
        self.gaps: deque[Gap] = deque()
        """Gaps of the journal that the cursor has not passed yet."""

    def cursor_at(self, offset: int) -> Cursor:
        """Return the cursor of `offset` in this journal's history."""
        return cursor_at(self.epochs, offset)

    def receive(self, frame: Events, text: bytes, range_size: int, *, decode: bool = True) -> list[Range]:
        """Return the new events of `frame`, whose undecoded form is `text`, without those received before.

        Raises msgspec.DecodeError for invalid heads, and ValueError for a frame that skips offsets or has an
        identity that no producer accepts; without `decode`, `Range.load` does.
        """
        if self.is_superseded:
            return []
        due = max(self.watermark.received + 1, self.first)
        if frame.offset > due or not frame.events:
            raise ValueError(f"{len(frame.events)} events from offset {frame.offset}, where {due} is due")
        heads = checked_heads(frame.events) if decode else []
        last = frame.offset + len(frame.events) - 1
        first_new = self.watermark.arrive(frame.offset, last)
        epoch = epoch_of(self.epochs, frame.offset)
        ranges: list[Range] = []
        for first, range_last in cut(frame.offset, last, range_size):
            begin, end = max(first, first_new) - frame.offset, range_last + 1 - frame.offset
            if begin < end:
                raws = frame.events[begin:end]
                if len(raws) < len(frame.events) and (len(raws) == 1 or not decode):
                    raws = _own(raws)  # slices would keep the whole frame in memory until the range has ended
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
                each.load(heads[begin : begin + len(each.raws)])
        return ranges

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

    def abandon(self) -> None:
        """Mark this track as superseded, and end its connection."""
        super().abandon()
        self.abandoned.set()

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
