"""The settle stage: mark ended events in their journal position at once, and in Redis as done markers.

A done marker is written only after the commit. It saves other listeners work and proves nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from oncecast.core.clock import Clock
from oncecast.core.errors import CrashLoop, DataInvalid, Reject, error_text
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.telemetry import ConflictsFound, DeadLettered, Duplicates, Persisted, Record, TerminalCause
from oncecast.listener.dependencies.gates import LeaseGate
from oncecast.listener.recent import Recent
from oncecast.tasks import STALL_S, idle, working

FLUSH_INTERVAL_S = 0.2
"""One call to Redis per event would cost half as much as its handler, and other listeners check every half second. If
this process crashes before it writes the markers, they take over its events and find the rows."""


class Settlement:
    """Tracks every identity in flight, and the ended events without a done marker.

    A second arrival of an identity in flight waits behind the first. When the first has ended, `Repeats` compares
    all that wait with its row. `release(arrival)` passes on an event that must be attempted, or one that was
    compared and reaches `end_compared` in its order. `ended(arrival)` is called for ordered events; so is
    `was_let_go(arrival)`, which returns the next event to abandon.
    """

    def __init__(
        self,
        leases: LeaseGate,
        recent: Recent,
        clock: Clock,
        *,
        release: Callable[[Arrival], None],
        ended: Callable[[Arrival], None],
        was_let_go: Callable[[Arrival], Arrival | None],
        record: Record,
    ) -> None:
        self._leases = leases
        self._recent = recent
        self._clock = clock
        self._release = release
        self._ended = ended
        self._was_let_go = was_let_go
        self._record = record
        self._in_flight: dict[str, Arrival] = {}
        self._behind: dict[str, deque[Arrival]] = {}
        self._repeated: dict[str, None] = {}
        """Ended identities with further arrivals; the first of these is in flight."""
        self.has_repeated = asyncio.Event()
        self._compared: list[Arrival] = []
        self._unmarked: list[Arrival] = []
        self._something = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """The number of identities in flight."""
        return len(self._in_flight)

    def all_in_flight(self) -> list[Arrival]:
        """Return the events that have not ended, without those that wait behind one of the same identity."""
        return list(self._in_flight.values())

    def enter(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Register new arrivals as in flight; return those that wait behind none of the same identity."""
        first = []
        for arrival in arrivals:
            identity = arrival.identity
            if self._in_flight.setdefault(identity, arrival) is arrival:
                first.append(arrival)
            else:
                # rule: a second arrival of an event waits for the first
                self._behind.setdefault(identity, deque()).append(arrival)
        return first

    def settle(self, arrivals: Sequence[Arrival], outcomes: Sequence[Outcome]) -> None:
        """Record events whose outcome PostgreSQL has committed, and schedule their done markers."""
        self._recent.keep(arrivals, outcomes)
        self._tell(arrivals, outcomes)
        self._end(arrivals)
        # rule: a done marker is written after the commit
        self._unmarked.extend(arrival for arrival in arrivals if arrival.leased)
        if self._unmarked:
            self._something.set()

    def ended_elsewhere(self, arrivals: Sequence[Arrival]) -> None:
        """Record events that have ended at another listener, by their done markers."""
        if arrivals:
            place = attrgetter("at_us", "offset")
            first, last = min(arrivals, key=place), max(arrivals, key=place)
            self._record(Duplicates(len(arrivals), first.id, last.id))
            self._end(arrivals)

    def take_repeated(self, count: int, max_bytes: int) -> list[Arrival]:
        """Take up to `count` repeated arrivals, of up to `max_bytes` in total, but at least one."""
        taken: list[Arrival] = []
        size_bytes = 0
        while self._repeated and len(taken) < count and size_bytes < max_bytes:
            identity = next(iter(self._repeated))
            del self._repeated[identity]
            first, behind = self._in_flight.get(identity), self._behind.get(identity, deque())
            if first is None:
                continue
            taken.append(first)
            size_bytes += len(first.raw)
            while behind and len(taken) < count and size_bytes < max_bytes:
                taken.append(behind.popleft())
                size_bytes += len(taken[-1].raw)
            if not behind:
                self._behind.pop(identity, None)
        if not self._repeated:
            self.has_repeated.clear()
        return taken

    def end_repeated(self, arrivals: Sequence[Arrival], outcomes: Sequence[Outcome | None]) -> None:
        """End the compared arrivals that have an outcome; pass on the others to be attempted."""
        unknown = [a for a, outcome in zip(arrivals, outcomes, strict=True) if outcome is None]
        for arrival in reversed(unknown):
            if self._in_flight.get(arrival.identity) is not arrival:
                self._behind.setdefault(arrival.identity, deque()).appendleft(arrival)
        known = [(a, outcome) for a, outcome in zip(arrivals, outcomes, strict=True) if outcome is not None]
        unordered = [(a, outcome) for a, outcome in known if a.turn is None]
        if unordered:
            self.settle([a for a, _ in unordered], [outcome for _, outcome in unordered])
        for arrival, outcome in known:
            if arrival.turn is not None:
                arrival.compared = outcome
                self._leave(arrival)
                self._release(arrival)
        for arrival in unknown:
            if self._in_flight.get(arrival.identity) is arrival:
                self._repeated.pop(arrival.identity, None)
                self._release(arrival)

    def end_compared(self, arrival: Arrival) -> None:
        """End a compared arrival whose turn has come, and those that this releases, without recursion."""
        self._compared.append(arrival)
        if len(self._compared) > 1:
            return
        while self._compared:
            first = self._compared[0]
            if first.compared is not None:
                self.settle([first], [first.compared])
            del self._compared[0]

    def release_repeated(self) -> None:
        """Pass on the first repeated arrival of each identity, where nothing compares them in batches."""
        for identity in list(self._repeated):
            del self._repeated[identity]
            if (first := self._in_flight.get(identity)) is not None:
                self._release(first)

    def let_go(self, arrival: Arrival) -> None:
        """Abandon an event whose journal position is superseded, and all events that wait behind it.

        The new journal position brings it again; the old arrival would only block it and its order.
        """
        following: Arrival | None = arrival
        while following is not None:
            self._leave(following, has_ended=False)
            following.track.drop([following])
            # rule: events that wait for an abandoned event are abandoned too
            following = self._was_let_go(following)

    async def mark_loop(self) -> None:
        """Write done markers in batches, every FLUSH_INTERVAL_S: other listeners do not ask sooner."""
        while True:
            idle()
            await self._something.wait()
            working(STALL_S)
            await self._clock.sleep(FLUSH_INTERVAL_S)
            await self.mark()

    async def mark(self) -> None:
        """Write the pending done markers."""
        ended, self._unmarked = self._unmarked, []
        self._something.clear()
        await self._leases.settle(ended)

    def _end(self, arrivals: Iterable[Arrival]) -> None:
        for track, group in groupby(arrivals, key=lambda arrival: arrival.track):
            ended = list(group)
            for arrival in ended:
                arrival.terminal_error = None  # its traceback references the handler's objects
                self._leave(arrival)
                if arrival.turn is not None:
                    self._ended(arrival)
            track.end(ended)

    def _leave(self, leaving: Arrival, *, has_ended: bool = True) -> None:
        identity = leaving.identity
        if self._in_flight.get(identity) is not leaving:
            return  # it was compared together with the arrival in flight
        del self._in_flight[identity]
        behind = self._behind.get(identity)
        if behind:
            following = behind.popleft()
            self._in_flight[identity] = following
            if not behind:
                del self._behind[identity]
            if has_ended:
                self._repeated[identity] = None
                self.has_repeated.set()
            else:
                self._release(following)

    def _tell(self, arrivals: Sequence[Arrival], outcomes: Sequence[Outcome]) -> None:
        by_outcome: dict[Outcome, list[Arrival]] = {}
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            by_outcome.setdefault(outcome, []).append(arrival)
        for outcome, group in by_outcome.items():
            batch = (len(group), group[0].id, group[-1].id)
            match outcome:
                case Outcome.STORED if group[0].terminal_error is not None:
                    self._record(_dead_lettered(group[0].id, group[0].terminal_error))
                case Outcome.STORED:
                    self._record(Persisted(*batch, after_retry=any(a.attempts > 1 or a.retried for a in group)))
                case Outcome.CONFLICT:
                    self._record(ConflictsFound(*batch))
                case _:
                    self._record(Duplicates(*batch))


def _dead_lettered(id: str, error: BaseException) -> DeadLettered:
    causes: dict[type[BaseException], TerminalCause] = {DataInvalid: "data", Reject: "rejected", CrashLoop: "crashes"}
    cause: TerminalCause = next((cause for kind, cause in causes.items() if isinstance(error, kind)), "retries")
    return DeadLettered(id, error_text(error), cause)
