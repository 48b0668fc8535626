"""The order stage: an event with a key runs when the previous event of its key has ended.

Every listener of a group reads the same journal, so each knows the order. PostgreSQL decides when the attempt starts
(`Turn`): no two listeners run a key at once, and the previous event must have its row.

An event that was published twice is in the journal twice. Its second arrival is a duplicate, but it also waits for
the event before it, so that the event after it cannot overtake.

An event is abandoned when its journal position is superseded, together with all events that wait behind it there: a
row of its identity that comes from elsewhere proves nothing about its place in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oncecast.app.application import App
from oncecast.core.event import Arrival, Turn


class Order:
    """Admits events in order; `release(arrival)` passes on an event that had to wait.

    `let_go(arrival)` abandons an event that waits behind an abandoned one.
    """

    def __init__(self, app: App, *, release: Callable[[Arrival], None], let_go: Callable[[Arrival], None]) -> None:
        self._plan_of = app.plan_of
        self._has_order = app.has_order
        self._release = release
        self._let_go = let_go
        self._followers: dict[Arrival, Arrival | None] = {}
        """For each ordered event in flight, the next event of its key; None until it arrives."""
        self._before: dict[Arrival, Arrival | None] = {}
        """For each waiting second arrival, the event before it; None if that was abandoned."""

    @property
    def waiting(self) -> int:
        """The number of events that wait for the event before them."""
        return sum(follower is not None for follower in self._followers.values())

    def let_through(self, arrivals: Sequence[Arrival], asking: list[Arrival]) -> list[Arrival]:
        """Register new `arrivals` of one journal; return those of `asking` that need not wait.

        `asking` is the part of `arrivals`, in order, whose identity is not in flight already. The others are
        registered too, and wait for `let_second_through`.
        """
        if not self._has_order:
            return asking
        asks = set(map(id, asking))
        return [a for a in arrivals if not self._waits(a, id(a) in asks) and id(a) in asks]

    def _waits(self, arrival: Arrival, asks: bool) -> bool:
        key_of = self._plan_of(arrival.type, arrival.source).key_of
        key = key_of(arrival) if key_of is not None else None
        if key is None:
            return False
        newest = arrival.track.newest_of_key
        before: Arrival | None = newest.get(key)
        newest[key] = arrival
        arrival.turn = Turn(key, arrival.source, arrival.id, arrival.epoch, arrival.offset, arrival.track)
        if before is not None:
            # rule: an ordered event names the event before it
            arrival.turn.before = before.turn
        self._followers[arrival] = None
        if before not in self._followers:
            return False
        self._followers[before] = arrival
        if not asks:
            # rule: a second arrival of an ordered event waits for the event before it
            self._before[arrival] = before
        return True

    def let_second_through(self, arrival: Arrival) -> None:
        """Pass on a second arrival, as its first has ended; now, or when the event before it has ended."""
        if arrival not in self._before:
            self._release(arrival)
        elif self._before.pop(arrival) is None:
            self._let_go(arrival)

    def ended(self, arrival: Arrival) -> None:
        """Pass on the next event of the key, unless it is a second arrival that waits for its first."""
        follower = self._followers.pop(arrival, None)
        if follower in self._before:
            del self._before[follower]
        # rule: the next event of a key runs when the one before it has ended
        elif follower is not None:
            self._release(follower)

    def was_let_go(self, arrival: Arrival) -> Arrival | None:
        """Remove an abandoned event; return the next event of its key, if it is to be abandoned now.

        A second arrival is abandoned later, when its first has ended.
        """
        follower = self._followers.pop(arrival, None)
        if follower in self._before:
            self._before[follower] = None
            return None
        return follower
