"""The listener's position in one journal: how far it has received, which events have ended, what is saved.

A track belongs to one history of a journal. When the journal has a divergent history (it was restored from a
backup), or rows are missing, the feed starts a new track, and the old one is superseded; its events in flight end on
their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from oncecast.core.cursors import cursor_at
from oncecast.core.event import IDENTITY_MAX_BYTES, Arrival, Cursor, JournalPosition
from oncecast.core.watermark import Watermark
from oncecast.core.wire import Epoch, Events, Gap, Head, decode_heads, epoch_of

_NO_BYTES = msgspec.Raw(b"")
EVENT_COST_BYTES = 768
"""Memory of an event in flight in addition to its text: Python objects, as measured (decision 039)."""
ENDED_COST_BYTES = 512
"""The part of an event's credit that is kept while its identity is held: one stuck event keeps all behind it in
memory, which must have a bound."""
KEYS_PRUNED_AT_MIN = 1_000


def _check_identities(heads: Sequence[Head], text: bytes) -> None:
    """Raise ValueError for an identity that PostgreSQL cannot store; `text` contains all `heads`."""
    if b"\\u0000" not in text:  # nearly always; then short identities need no check
        heads = [h for h in heads if len(h.id) + len(h.source) + len(h.type) > IDENTITY_MAX_BYTES // 4]
    for head in heads:
        for name in (head.id, head.source, head.type):
            if "\0" in name:
                raise ValueError(f"{name[:20]!r} holds a NUL")
            if len(name.encode()) > IDENTITY_MAX_BYTES:
                raise ValueError(f"{name[:20]!r} goes on beyond {IDENTITY_MAX_BYTES} bytes")


def cost_bytes(frame: Events, text: bytes) -> int:
    """Return the credit that `frame`, whose undecoded form is `text`, takes."""
    return len(text) + EVENT_COST_BYTES * len(frame.events)


def _unended_bytes(arrivals: Iterable[Arrival]) -> int:
    return sum(arrival.cost_bytes for arrival in arrivals if arrival.raw is not _NO_BYTES)


def _to_nobody(_count: int) -> None:
    """Ignore credit of a superseded track: its successor starts with the whole window."""


class Track(JournalPosition):
    """The arrivals of one journal in order of offset, from the saved cursor on, and their credit."""

    def __init__(self, journal: str, epochs: Sequence[Epoch], after: int, on_credit: Callable[[int], None]) -> None:
        super().__init__()
        self.journal = journal
        self.epochs = list(epochs)
        self.saved = self.cursor_at(after)
        self.watermark = Watermark(after)
        self.first = 1
        """The oldest offset that the producer still has."""
        self.abandoned = asyncio.Event()
        """Set when the track is superseded."""
        self._keys_pruned_at = KEYS_PRUNED_AT_MIN
        self.gaps: deque[Gap] = deque()
        """Gaps of the journal that the cursor has not passed yet."""
        self.abandoned_bytes = 0
        """Of a superseded track: the bytes of arrivals that have neither ended nor been dropped."""
        self._held: deque[Arrival] = deque()
        self._on_credit = on_credit

    def cursor_at(self, offset: int) -> Cursor:
        """Return the cursor of `offset` in this journal's history."""
        return cursor_at(self.epochs, offset)

    def receive(self, frame: Events, text: bytes) -> list[Arrival]:
        """Return the new arrivals of `frame`, whose undecoded form is `text`, without those received before.

        Raises msgspec.DecodeError for invalid heads, and ValueError for a frame that skips offsets or has an
        identity that no producer accepts.
        """
        heads = decode_heads(text)
        due = max(self.watermark.received + 1, self.first)
        if frame.offset > due or not heads:
            raise ValueError(f"{len(heads)} events from offset {frame.offset}, where {due} is due")
        _check_identities(heads, text)
        last = frame.offset + len(heads) - 1
        new = self.watermark.arrive(frame.offset, last) - frame.offset
        epoch = epoch_of(self.epochs, frame.offset)
        arrivals = [
            Arrival(
                track=self,
                offset=offset,
                at_us=frame.at,
                id=head.id,
                source=head.source,
                type=head.type,
                # A copy: a slice would keep the whole frame in memory until the event ends.
                raw=raw.copy() if len(heads) > 1 else raw,
                cost_bytes=len(raw) + 1 + EVENT_COST_BYTES,
                epoch=epoch,
                journal=self.journal,
            )
            for offset, head, raw in zip(
                range(frame.offset + new, last + 1), heads[new:], frame.events[new:], strict=True
            )
        ]
        frame_cost = cost_bytes(frame, text)
        self.doubted_bytes = max(0, self.doubted_bytes - frame_cost)
        if not self.abandoned.is_set():
            self._held.extend(arrivals)
        # Credit counts whole frames: the overhead of the frame returns at once.
        self._on_credit(frame_cost - sum(arrival.cost_bytes for arrival in arrivals))
        return arrivals

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
        """Mark this track as superseded: its events in flight end on their own, and its cursor is no longer saved."""
        self.is_superseded = True
        self.abandoned.set()
        self.abandoned_bytes += _unended_bytes(self._held)
        self._held.clear()  # they reference their track: a cycle that the garbage collector does not see
        self.newest_of_key.clear()
        self._on_credit = _to_nobody

    def drop(self, arrivals: Sequence[Arrival]) -> None:
        if self.abandoned_bytes:
            self.abandoned_bytes = max(0, self.abandoned_bytes - _unended_bytes(arrivals))

    def end(self, arrivals: Sequence[Arrival]) -> None:
        """Record ended arrivals: free their payloads, and keep their identities until the cursor has passed them."""
        self.drop(arrivals)
        self.watermark.end([arrival.offset for arrival in arrivals])
        freed_bytes = 0
        for arrival in arrivals:
            kept_bytes = min(arrival.cost_bytes, ENDED_COST_BYTES)
            freed_bytes += arrival.cost_bytes - kept_bytes
            arrival.raw, arrival.cost_bytes = _NO_BYTES, kept_bytes
        # rule: credit returns to the producer when events end
        self._on_credit(freed_bytes + self._forget())

    def ended(self) -> list[Arrival]:
        """Return the arrivals that have ended since the saved cursor, up to the watermark or the first gap."""
        watermark = self.watermark.value
        if self.gaps:
            watermark = min(watermark, self.gaps[0].first - 1)
        ended = []
        for arrival in self._held:
            if arrival.offset > watermark:
                break
            ended.append(arrival)
        return ended

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
        """Release ended arrivals up to the saved cursor; return their credit."""
        freed_bytes = 0
        while self._held and self._held[0].offset <= min(self.saved.offset, self.watermark.value):
            gone = self._held.popleft()
            freed_bytes += gone.cost_bytes
            if gone.turn is not None:
                gone.turn.before = None  # not needed behind a saved cursor, and the chain of a busy key would grow
        return freed_bytes
