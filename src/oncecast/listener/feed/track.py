"""What a listener knows of one journal: how far it has received, what has ended, what is saved.

A track belongs to one stretch of a journal's history. When the journal is found to have gone another way (it
was restored from a backup), or rows turn out to be missing, the feed begins a new track; what is in flight of
the old one ends on its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from oncecast.core.cursors import cursor_at
from oncecast.core.event import IDENTITY_MAX_BYTES, Arrival, Cursor
from oncecast.core.watermark import Watermark
from oncecast.core.wire import Epoch, Events, Gap, Head, decode_heads, epoch_of

_NO_BYTES = msgspec.Raw(b"")
EVENT_COST_BYTES = 768
"""What an event in flight takes up on top of its text: Python objects, by measurement (decision 039)."""
ENDED_COST_BYTES = 512
"""Of an event's credit, what is kept back while only its identity is held: one event that is stuck keeps all
behind it from being forgotten, and even that must have a bound."""
KEYS_PRUNED_AT_MIN = 1_000


def _check_identities(heads: Sequence[Head], text: bytes) -> None:
    """Raise ValueError for one that PostgreSQL cannot keep, not even as that of a dead event; `text` has them all."""
    if b"\\u0000" not in text:  # nearly always; then short ones need no look of their own
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
    """What an abandoned track held is not given back: its successor begins with all there is."""


class Track:
    """Arrivals of one journal in order of offset, from the saved cursor on; and the credit they hold."""

    def __init__(self, journal: str, epochs: Sequence[Epoch], after: int, on_credit: Callable[[int], None]) -> None:
        self.journal = journal
        self.epochs = list(epochs)
        self.saved = self.cursor_at(after)
        self.watermark = Watermark(after)
        self.first = 1
        """The oldest offset that the producer can serve: what lies before it is gone."""
        self.distrusted_to = 0
        """Up to here marks prove nothing: PostgreSQL had lost rows that they stood for."""
        self.doubted_bytes = 0
        """So much of what comes is doubted: the process before may have died of it."""
        self.abandoned = asyncio.Event()
        """The journal has gone another way, or rows are missing: another track takes its place."""
        self.newest_of_key: dict[str, Arrival] = {}
        """Of ordered events: the last that has come of each key, until it is saved."""
        self._keys_pruned_at = KEYS_PRUNED_AT_MIN
        self.gaps: deque[Gap] = deque()
        """What the journal has lost and the cursor has not yet passed."""
        self.abandoned_bytes = 0
        """Once it is abandoned: the bytes of its arrivals that have neither ended nor been dropped."""
        self._held: deque[Arrival] = deque()
        self._on_credit = on_credit

    def cursor_at(self, offset: int) -> Cursor:
        """The cursor of `offset` in this journal's history."""
        return cursor_at(self.epochs, offset)

    @property
    def in_flight(self) -> int:
        """Received offsets above the watermark."""
        return self.watermark.received - self.watermark.value

    def receive(self, frame: Events, text: bytes) -> list[Arrival]:
        """The new arrivals of `frame`, whose undecoded form is `text`; its overlap is dropped.

        Raises msgspec.DecodeError on heads that are none, ValueError on a frame that would have us skip events, or
        hold identities that no producer accepts.
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
                # A copy, for a part of the frame would keep all of the frame in memory until the event ends.
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
        # Credit counts whole frames: what is not an arrival's own goes back at once.
        self._on_credit(frame_cost - sum(arrival.cost_bytes for arrival in arrivals))
        return arrivals

    def skip(self, gap: Gap) -> None:
        """Nothing will arrive there; its overlap is dropped. Raises ValueError as `receive` does."""
        due = max(self.watermark.received + 1, self.first)
        if gap.first > due:
            raise ValueError(f"a gap from offset {gap.first}, where {due} is due")
        if gap.last >= due:
            if self.gaps and self.gaps[-1].last == self.watermark.received:
                # One gap in memory, in however many frames it comes: what is not merged lies behind an event.
                gap = Gap(first=self.gaps.pop().first, last=gap.last)
            self.watermark.arrive(gap.last + 1, gap.last)
            # rule: a gap is recorded before the cursor passes it
            self.gaps.append(gap)

    def abandon(self) -> None:
        """Another track takes its place; what is in flight ends on its own, and nobody saves a cursor over it."""
        self.abandoned.set()
        self.abandoned_bytes += _unended_bytes(self._held)
        self._held.clear()  # each of them holds its track: a circle that no garbage collector sees
        self.newest_of_key.clear()
        self._on_credit = _to_nobody

    def drop(self, arrivals: Sequence[Arrival]) -> None:
        """Stop counting these arrivals of an abandoned track: nothing holds them any longer."""
        if self.abandoned_bytes:
            self.abandoned_bytes = max(0, self.abandoned_bytes - _unended_bytes(arrivals))

    def end(self, arrivals: Sequence[Arrival]) -> None:
        """These have ended: their payloads go, their identities stay until the cursor is saved over them."""
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
        """What has ended since the saved cursor, up to the watermark or to a gap, which is passed by itself."""
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
        """PostgreSQL shows every row up to `cursor`, in terms of this journal's history."""
        if cursor.offset <= self.saved.offset:
            return
        self.saved = cursor
        while self.gaps and self.gaps[0].last <= cursor.offset:
            self.gaps.popleft()
        if self.gaps and self.gaps[0].first <= cursor.offset:  # it grew while its beginning was passed
            self.gaps[0] = Gap(first=cursor.offset + 1, last=self.gaps[0].last)
        self._on_credit(self._forget())
        if len(self.newest_of_key) > self._keys_pruned_at:
            self.newest_of_key = {k: a for k, a in self.newest_of_key.items() if a.offset > cursor.offset}
            self._keys_pruned_at = max(KEYS_PRUNED_AT_MIN, 2 * len(self.newest_of_key))

    def _forget(self) -> int:
        """Let go of what has ended and is saved, by whomever; returns the credit that it held."""
        freed_bytes = 0
        while self._held and self._held[0].offset <= min(self.saved.offset, self.watermark.value):
            gone = self._held.popleft()
            freed_bytes += gone.cost_bytes
            if gone.turn is not None:
                gone.turn.before = None  # nobody looks back behind a saved cursor, and a key may never be quiet
        return freed_bytes
