"""The claim stage: claim waiting events and divide them into work items.

A `Line` is the queue of events before the attempts. There are several (see `lines`), so that events that are only
stored, in large batches, do not wait behind events with handlers. A line claims no more than it can soon attempt:
other listeners can claim the rest.
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
"""One claim may cover what the workers finish in this time: calls to Redis for few events cost nearly as much."""
WORK_MAX_BYTES = 4 * 1024 * 1024
"""The maximum credit of a work item of several events: an insert holds their text several times."""
_OFFSET = attrgetter("offset")
EPSILON = 1e-6
"""The maximum rounding error of a sum of fractions."""


def _of_bounded_size(work: WorkItem) -> Iterable[WorkItem]:
    """Divide a work item into items of up to WORK_MAX_BYTES; a larger event is an item of its own."""
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
    """A queue of events before `attempt`, with `lanes` workers.

    `claim_max` bounds the events of a claim, and `pieces_max` its work items. While workers finish more events in
    CLAIM_S, a claim may cover that number, up to `claim_fast_max`. `work_of(arrival)` returns the key of events that
    may share a work item, and its maximum size. `sort_out` receives every answer to a claim.
    """

    def __init__(
        self,
        *,
        lanes: int,
        claim_max: int,
        claim_fast_max: int = 0,
        pieces_max: int | None = None,
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
        self._lanes = lanes
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
        """Append new events."""
        self._pending.extend(arrivals)
        if self._pending:
            self._arrived.set()

    def push_first(self, arrivals: Sequence[Arrival]) -> None:
        """Requeue events at the front: they are older, and hold back the watermark."""
        self._pending.extendleft(reversed(arrivals))
        if self._pending:
            self._arrived.set()

    async def claim_loop(self) -> None:
        """Claim waiting events as soon as a worker has room."""
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
        """Run one worker: attempt one work item after the other."""
        while True:
            idle()
            work = await self._work.get()
            try:
                await self._attempt(work)
            finally:
                self._worked_off += 1
                self._ended()

    async def idle(self) -> None:
        """Wait until no claimed event is being attempted."""
        await self._idle.wait()

    @property
    def lanes(self) -> int:
        """The maximum number of concurrent attempts."""
        return self._lanes

    def _fit(self) -> None:
        """Set the size of a claim, within its bounds, to what the workers finished lately per CLAIM_S."""
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
        """Return how many of the first `count` waiting events make up `pieces` work items."""
        room = float(pieces)
        for taken, arrival in enumerate(islice(self._pending, count), start=1):
            room -= 1 / self._work_of(arrival)[1]
            if room < EPSILON:
                return taken
        return count

    def _divide(self, arrivals: WorkItem) -> Iterable[WorkItem]:
        """Yield work items, each of one epoch of one journal; a quarantined event is an item of its own."""
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
