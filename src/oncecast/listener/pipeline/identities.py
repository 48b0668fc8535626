"""The identities that this listener attempts: two attempts of one process never wait for each other.

A second arrival of an identity waits until the first has ended. Then it is compared with the row, in batches:
PostgreSQL decides whether it is a duplicate or a conflict, and no handler runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from oncecast.core.event import Arrival

COMPARED_MAX_EVENTS = 1_000
COMPARED_MAX_BYTES = 4 * 1024 * 1024


class Identities:
    """Every identity of a queued or attempted event, with the further arrivals that wait for it."""

    def __init__(self) -> None:
        self._first: dict[str, Arrival] = {}
        self._behind: dict[str, deque[Arrival]] = {}
        self._repeated: dict[str, None] = {}
        """Identities that have ended while further arrivals waited; the first of these is in `_first`."""
        self.has_repeated = asyncio.Event()

    def enter(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Register events to be attempted; return those that wait for none of the same identity."""
        first = []
        for arrival in arrivals:
            arrival.busy = True
            identity = arrival.identity
            if self._first.setdefault(identity, arrival) is arrival:
                first.append(arrival)
            else:
                # rule: a second arrival of an event waits for the first
                self._behind.setdefault(identity, deque()).append(arrival)
        return first

    def leave(self, arrival: Arrival, *, has_ended: bool) -> Arrival | None:
        """Remove an event that has ended, or that this listener attempts no longer.

        In the latter case, return the next arrival of its identity, which must be attempted now.
        """
        arrival.busy = False
        identity = arrival.identity
        if self._first.get(identity) is not arrival:
            return None  # it waits, or was compared together with the first
        del self._first[identity]
        self._repeated.pop(identity, None)
        behind = self._behind.pop(identity, None)
        while behind:
            following = behind.popleft()
            if following.gone or not following.range.acquired:
                following.busy = False
                following.track.drop(following)
                continue
            self._first[identity] = following
            if behind:
                self._behind[identity] = behind
            if not has_ended:
                return following
            self._repeated[identity] = None
            self.has_repeated.set()
            break
        return None

    def take_repeated(self) -> list[Arrival]:
        """Take a batch of repeated arrivals, to be compared with their rows."""
        taken: list[Arrival] = []
        size_bytes = 0
        while self._repeated and len(taken) < COMPARED_MAX_EVENTS and size_bytes < COMPARED_MAX_BYTES:
            identity = next(iter(self._repeated))
            del self._repeated[identity]
            behind = self._behind.get(identity, deque())
            taken.append(self._first[identity])
            size_bytes += len(taken[-1].raw)
            while behind and len(taken) < COMPARED_MAX_EVENTS and size_bytes < COMPARED_MAX_BYTES:
                taken.append(behind.popleft())
                size_bytes += len(taken[-1].raw)
            if not behind:
                self._behind.pop(identity, None)
        if not self._repeated:
            self.has_repeated.clear()
        return taken

    def put_back(self, unknown: Sequence[Arrival]) -> list[Arrival]:
        """Return the arrivals to be attempted, of compared ones that have no outcome; the others wait for them."""
        first = []
        for arrival in reversed(unknown):
            if self._first.setdefault(arrival.identity, arrival) is arrival:
                self._repeated.pop(arrival.identity, None)
                first.append(arrival)
            else:
                self._behind.setdefault(arrival.identity, deque()).appendleft(arrival)
        return first
