"""A listener's position in one journal: which events have ended, and up to which offset that is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from oncecast.core.event import Arrival, Cursor
from oncecast.core.ranges import Range
from oncecast.core.watermark import Watermark

_NO_BYTES = msgspec.Raw(b"")
ENDED_COST_BYTES = 512
"""The part of an ordered event's credit that is kept until the cursor has passed it: one stuck event keeps the turns
of all behind it in memory, which must have a bound."""


def _to_nobody(_count: int) -> None:
    """Ignore credit: of a superseded position, whose successor starts with the whole window, or of a replay."""


class JournalPosition:
    """The events of one journal that a listener has received, from the saved cursor on, and their credit."""

    def __init__(
        self,
        journal: str,
        saved: Cursor,
        on_credit: Callable[[int], None] = _to_nobody,
        incarnation: str | None = None,
    ) -> None:
        self.journal = journal
        self.incarnation = incarnation
        """The incarnation of PostgreSQL from which the saved cursor was read: rows of another one may be lost.

        None for any."""
        self.saved = saved
        self.watermark = Watermark(saved.offset)
        self.distrusted_to = 0
        """Up to this offset, done markers are ignored: PostgreSQL had lost rows of marked events."""
        self.is_superseded = False
        """Whether the journal has a divergent history or rows are missing: another position replaces this one."""
        self.fault: str | None = None
        """What was wrong with what the producer sent."""
        self.newest_of_key: dict[str, Arrival] = {}
        """The newest ordered event of each key, until the cursor has passed it."""
        self.followers: dict[Arrival, Arrival] = {}
        """For each ordered event that has not ended, the next event of its key, which waits for it."""
        self.abandoned_bytes = 0
        """Of a superseded position: the bytes of arrivals that have neither ended nor been dropped."""
        self.ranges: set[Range] = set()
        """The ranges with events that have not ended."""
        self._ordered: deque[Arrival] = deque()
        """The ordered events that the cursor has not passed."""
        self._on_credit = on_credit

    def hold(self, ordered: Arrival) -> None:
        """Keep an ordered event until the cursor has passed it: later events of its key refer to its turn."""
        self._ordered.append(ordered)

    def abandon(self) -> None:
        """Mark this position as superseded: its attempts finish, and its other events and its cursor are dropped."""
        self.is_superseded = True
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
        """Stop counting an arrival of a superseded position that nothing references any more."""
        if self.is_superseded and arrival.raw is not _NO_BYTES:
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
        """Free the events of a range that has ended before it was decoded, here or elsewhere."""
        ended.raws, ended.unended = [], 0
        self.ranges.discard(ended)
        self._on_credit(ended.cost_bytes)

    def fail(self, fault: str) -> None:
        """Disconnect from the producer, which has sent an invalid event."""
        self.fault = fault
        self.abandon()

    def record(self, ended: Range) -> None:
        """Move the watermark over a range that PostgreSQL has recorded as ended."""
        if not ended.is_recorded:
            ended.is_recorded = True
            self.watermark.end(ended.first_new, ended.last)
            self._on_credit(self._forget())

    def _forget(self) -> int:
        """Release ordered arrivals up to the saved cursor; return their credit."""
        freed_bytes = 0
        while self._ordered and self._ordered[0].offset <= min(self.saved.offset, self.watermark.value):
            gone = self._ordered.popleft()
            freed_bytes += gone.cost_bytes
            if gone.turn is not None:
                gone.turn.before = None  # not needed behind a saved cursor, and the chain of a busy key would grow
        return freed_bytes
