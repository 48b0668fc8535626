"""The order station: of the events of one key, the next is let through when the one before has ended.

Every listener of a group reads the same journal, so each knows the order by itself; that no two of them run a key
at once, and that the event before really has its row, PostgreSQL decides when the attempt begins (`Turn`).

An event that was published again stands in the journal twice. Its second arrival is only a duplicate, but it too
waits for what stands before it: it lets go what comes after it, and that may not overtake.

Where an event is let go because its track is abandoned, so is all that stands behind it there: a row of its
identity, when that comes from elsewhere, says nothing about the place at which it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oncecast.app.application import App
from oncecast.core.event import Arrival, Turn


class Order:
    """Lets arrivals through; `release(arrival)` sends one on that had to wait.

    `let_go(arrival)` takes one out of flight that stands behind what was let go.
    """

    def __init__(self, app: App, *, release: Callable[[Arrival], None], let_go: Callable[[Arrival], None]) -> None:
        self._plan_of = app.plan_of
        self._has_order = app.has_order
        self._release = release
        self._let_go = let_go
        self._followers: dict[Arrival, Arrival | None] = {}
        """Of each ordered arrival that has not ended, the next of its key, once that has come."""
        self._before: dict[Arrival, Arrival | None] = {}
        """Of each that waits and is not asking yet, the one before it; None if that was let go."""

    @property
    def waiting(self) -> int:
        """How many wait for the one before them."""
        return sum(follower is not None for follower in self._followers.values())

    def let_through(self, arrivals: Sequence[Arrival], asking: list[Arrival]) -> list[Arrival]:
        """New `arrivals` of one track; those of `asking` (some of them, in their order) that need not wait.

        The others know their place too: an arrival that waits for another of its own identity is not asking, until
        `let_second_through`.
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
        """The first of its identity has ended: released now, or when the one before it has ended."""
        if arrival not in self._before:
            self._release(arrival)
        elif self._before.pop(arrival) is None:
            self._let_go(arrival)

    def ended(self, arrival: Arrival) -> None:
        """Its row is in PostgreSQL, or said to be: the next of its key may go, as soon as it asks."""
        follower = self._followers.pop(arrival, None)
        if follower in self._before:
            del self._before[follower]
        # rule: the next event of a key runs when the one before it has ended
        elif follower is not None:
            self._release(follower)

    def was_let_go(self, arrival: Arrival) -> Arrival | None:
        """It is out of flight without having ended; returns the next of its key, if that is to be let go now.

        One that is not asking yet is let go when it would.
        """
        follower = self._followers.pop(arrival, None)
        if follower in self._before:
            self._before[follower] = None
            return None
        return follower
