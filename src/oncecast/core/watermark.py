"""The watermark: the offset up to which a listener has seen every event of a journal end."""

from __future__ import annotations

from collections.abc import Iterable


class Watermark:
    """The finished prefix of a journal's offsets, which end in any order.

    Offsets up to `value` have all ended. `received` is the last offset that arrived: ended or in flight.
    """

    __slots__ = ("_ended", "_gaps", "received", "value")

    def __init__(self, after: int) -> None:
        self.value = after
        self.received = after
        self._ended: set[int] = set()
        self._gaps: dict[int, int] = {}  # first to last; a gap may be of any size

    def arrive(self, first: int, last: int) -> int:
        """Record that offsets `first` to `last` arrived; return the first new one (`last + 1` if none is).

        Offsets overlap if a frame begins before the cursor. Offsets missing below `first` are a gap of the journal:
        they will never arrive, so they count as ended.
        """
        if first > self.received + 1:
            self._leave_out(first - 1)
        new = max(first, self.received + 1)
        self.received = max(self.received, last)
        return new

    def _leave_out(self, last: int) -> None:
        """Count the offsets above `received` up to `last` as ended; adjacent gaps are merged into one."""
        before = next(reversed(self._gaps), None)
        is_adjacent = before is not None and self._gaps[before] == self.received
        begin = before if before is not None and is_adjacent else self.received + 1
        self._gaps[begin] = last
        self.end(())

    def end(self, offsets: Iterable[int]) -> None:
        """Record that these offsets have ended. Safe to repeat."""
        ended = self._ended
        value = self.value
        ended.update(offset for offset in offsets if offset > value)
        while True:
            following = value + 1
            if following in ended:
                ended.remove(following)
                value = following
            elif following in self._gaps:
                value = self._gaps.pop(following)
            else:
                break
        self.value = value
