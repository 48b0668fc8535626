"""The claim station: of what has arrived, what is ours to do now?

A *line* is the way from here to the attempts. There are several, see `lines`: events that only want to be stored, in
batches as large as what has arrived, do not stand behind those that are each a piece of work of their own. A line
claims no more than it can work on soon: what is not claimed, another listener can take.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any

from oncecast.core.clock import Clock
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined
from oncecast.core.leases import Claims
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.tasks import STALL_S, idle, working

WorkItem = list[Arrival]
CLAIM_S = 0.1
"""What lanes work off in this time may be claimed at once: a call to Redis for a few events costs nearly as much."""
WORK_MAX_BYTES = 4 * 1024 * 1024
"""A piece of work of several events has at most this much credit: an insert holds their text several times."""
_OFFSET = attrgetter("offset")
EPSILON = 1e-6
"""By so much a sum of many fractions may miss a whole number."""


def _of_bounded_size(work: WorkItem) -> Iterable[WorkItem]:
    """Divide what is larger than WORK_MAX_BYTES; a larger event is alone."""
    if len(work) == 1 or sum(arrival.cost_bytes for arrival in work) <= WORK_MAX_BYTES:
        yield work
        return
    piece: WorkItem = []
    room_bytes = WORK_MAX_BYTES
    for arrival in work:
        if piece and arrival.cost_bytes > room_bytes:
            yield piece
            piece, room_bytes = [], WORK_MAX_BYTES
        piece.append(arrival)
        room_bytes -= arrival.cost_bytes
    yield piece


class Line:
    """Pending arrivals on their way to `attempt`: `lanes` at a time, and `ready_ahead` that wait there.

    `claim_max` bounds a claim, and so does `pieces_max`, the pieces of work that it is for. While lanes work off more
    in CLAIM_S, a claim may be for as much, up to `claim_fast_max`. `work_of(arrival)` says what may be one piece of
    work with it, and how many at most. `sort_out` is told of what is not ours.
    """

    def __init__(
        self,
        *,
        lanes: int,
        claim_max: int,
        claim_fast_max: int = 0,
        pieces_max: int | None = None,
        ready_ahead: int = 0,
        work_of: Callable[[Arrival], tuple[Any, int]],
        leases: LeaseGate,
        database: DatabaseGate,
        clock: Clock,
        attempt: Callable[[WorkItem], Awaitable[None]],
        sort_out: Callable[[Claims], None],
    ) -> None:
        self._pending: deque[Arrival] = deque()
        self._arrived = asyncio.Event()
        self._work: asyncio.Queue[WorkItem] = asyncio.Queue(maxsize=lanes)
        self._lanes = lanes + ready_ahead
        self._claim_max = self._claim_size = claim_max
        self._claim_fast_max = max(claim_max, claim_fast_max)
        self._worked_off = 0
        self._monotonic_s = clock.monotonic_s
        self._fitted_at_s = clock.monotonic_s()
        self._pieces_max = pieces_max
        self._work_of = work_of
        self._leases = leases
        self._database = database
        self._attempt = attempt
        self._sort_out = sort_out
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def push(self, arrivals: Iterable[Arrival]) -> None:
        """New arrivals to claim, behind those that wait."""
        self._pending.extend(arrivals)
        if self._pending:
            self._arrived.set()

    def push_first(self, arrivals: Sequence[Arrival]) -> None:
        """Arrivals that come back, before those that wait: they are older, and hold up the watermark."""
        self._pending.extendleft(reversed(arrivals))
        if self._pending:
            self._arrived.set()

    async def claim_loop(self) -> None:
        """Claim what is pending, as soon as a lane has room for it."""
        while True:
            idle()
            await self._arrived.wait()
            await self._database.wait()
            working(STALL_S)
            batch = self._take()
            self._began(1)
            try:
                claims = await self._leases.claim(batch)
                self._sort_out(claims)
                idle()
                for work in self._divide(claims.mine + claims.elsewhere):
                    self._began(1)
                    try:
                        await self._work.put(work)
                    except asyncio.CancelledError:
                        self._ended()
                        raise
            finally:
                self._ended()

    async def work_loop(self) -> None:
        """One lane: attempt one piece of work after the other."""
        while True:
            idle()
            work = await self._work.get()
            try:
                await self._attempt(work)
            finally:
                self._worked_off += 1
                self._ended()

    async def idle(self) -> None:
        """Until nothing that was claimed is still being attempted."""
        await self._idle.wait()

    @property
    def lanes(self) -> int:
        """How many attempts may be under way at a time."""
        return self._lanes

    def _fit(self) -> None:
        """A claim is for as much as the lanes have lately worked off in CLAIM_S, within its bounds."""
        now_s = self._monotonic_s()
        since_s = now_s - self._fitted_at_s
        if since_s >= CLAIM_S:
            in_time = int(self._worked_off * CLAIM_S / since_s)
            self._claim_size = min(max(self._claim_max, in_time), self._claim_fast_max)
            self._worked_off, self._fitted_at_s = 0, now_s

    def _take(self) -> WorkItem:
        self._fit()
        count = min(self._claim_size, len(self._pending))
        if self._pieces_max is not None:
            count = self._that_make_up(self._pieces_max, count)
        batch = [self._pending.popleft() for _ in range(count)]
        if not self._pending:
            self._arrived.clear()
        return batch

    def _that_make_up(self, pieces: int, count: int) -> int:
        """How many of the first `count` that wait make up so many pieces of work, of whatever kinds."""
        room = float(pieces)
        for taken, arrival in enumerate(islice(self._pending, count), start=1):
            room -= 1 / self._work_of(arrival)[1]
            if room < EPSILON:
                return taken
        return count

    def _divide(self, arrivals: WorkItem) -> Iterable[WorkItem]:
        """Pieces of work, each from one epoch of one journal, in the order of their first; a suspect is its own."""
        pieces: dict[Any, tuple[WorkItem, int]] = {}
        for arrival in arrivals:
            if is_quarantined(arrival.takeovers):
                yield [arrival]
                continue
            kind, work_max = self._work_of(arrival)
            pieces.setdefault((arrival.epoch, kind), ([], work_max))[0].append(arrival)
        for run, work_max in pieces.values():
            run.sort(key=_OFFSET)  # retried events may have come back in any order
            for begin in range(0, len(run), work_max):
                yield from _of_bounded_size(run[begin : begin + work_max])

    def _began(self, pieces: int) -> None:
        self._busy += pieces
        self._idle.clear()

    def _ended(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()
