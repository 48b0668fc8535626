"""The watermark: the offset up to which a listener knows that every event of a journal has ended."""

from __future__ import annotations


class Watermark:
    """The finished prefix of a journal's offsets, which end in any order.

    Offsets up to `value` have all ended. `received` is the last offset that arrived: ended or in flight.
    """

    __slots__ = ("_ended", "_first_of", "received", "value")

    def __init__(self, after: int) -> None:
        self.value = after
        self.received = after
        self._ended: dict[int, int] = {}
        """Runs of ended offsets above `value`, first to last; adjacent ones are merged."""
        self._first_of: dict[int, int] = {}
        """The same, last to first."""

    def arrive(self, first: int, last: int) -> int:
        """Record that offsets `first` to `last` arrived; return the first new one (`last + 1` if none is).

        Offsets overlap if a frame begins before the cursor. Offsets missing below `first` are a gap of the journal:
        they will never arrive, so they count as ended.
        """
        if first > self.received + 1:
            self.end(self.received + 1, first - 1)
        new = max(first, self.received + 1)
        self.received = max(self.received, last)
        return new

    def end(self, first: int, last: int) -> None:
        """Record that the offsets `first` to `last` have ended; such runs neither overlap nor repeat."""
        if first == self.value + 1:
            self.value = max(last, self._ended.pop(last + 1, last))
            self._first_of.pop(self.value, None)
        elif first > self.value:
            first = self._first_of.pop(first - 1, first)
            last = self._ended.pop(last + 1, last)
            self._ended[first], self._first_of[last] = last, first
