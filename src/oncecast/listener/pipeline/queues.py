"""The queues of claimed events, each with its own workers, so that no event waits behind one of another kind.

One queue is for events that are only stored, one for handlers that take batches, one for events attempted one by one,
which includes all that have failed before. The last has few workers, for events after a lock timeout: each may occupy
its worker until the next lock timeout.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TypeAlias

from oncecast.app.application import App
from oncecast.app.plan import Plan
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined
from oncecast.core.ranges import RANGE_MAX_EVENTS, Range

WorkItem: TypeAlias = list[Arrival]
"""Events that are attempted in one transaction: one, or several of one plan and one epoch, by offset."""

WHOLE_MAX_EVENTS = 2 * RANGE_MAX_EVENTS
"""The maximum number of events of whole ranges in one transaction, except that it has at least one range."""
WORK_MAX_BYTES = 4 * 1024 * 1024
"""The maximum credit of a work item of several events: an insert holds their text several times."""
STORE_WORKERS = 2
BATCH_WORKERS = 2
WORK_ITEMS_AHEAD = 2
"""The work items per worker that a queue holds before it claims no more: other listeners can claim the rest."""
LOCK_TIMEOUT_SHARE = 4
"""One-by-one workers per worker for events after a lock timeout."""
_OFFSET = attrgetter("offset")


class WorkQueue:
    """A queue of claimed events, and of the ranges that wait to be claimed for it.

    It claims up to `ahead_max_events`, once half of them are gone.
    """

    def __init__(self, workers: int, ahead_max_events: int) -> None:
        self.workers = workers
        self.ahead_max_events = ahead_max_events
        self._ranges: deque[Range] = deque()
        self._events: dict[tuple[Plan | None, str], deque[Arrival]] = {}
        """By plan (None: attempted one by one) and epoch; the key whose turn is next comes first."""
        self._whole: deque[Range] = deque()
        """Claimed ranges whose events are inserted without being decoded."""
        self._queued = 0
        self._has_events = asyncio.Event()
        self._has_whole = asyncio.Event()
        self._may_claim = asyncio.Event()

    # --- ranges to be claimed ------------------------------------------------------------------------------

    def add_ranges(self, ranges: Iterable[Range]) -> None:
        """Append new ranges."""
        self._ranges.extend(ranges)
        self._update()

    def put_range_back(self, older: Range) -> None:
        """Put a range back at the front: it is older, and holds back the watermark."""
        self._ranges.appendleft(older)
        self._update()

    async def ranges_to_claim(self) -> list[Range]:
        """Wait for ranges and room for their events; return the next ones, at least one."""
        await self._may_claim.wait()
        room = self.ahead_max_events - self._queued
        taken: list[Range] = []
        while self._ranges and room > 0:
            taken.append(self._ranges.popleft())
            room -= taken[-1].unended
        self._update()
        return taken

    # --- claimed events ------------------------------------------------------------------------------------

    def put(self, arrivals: Sequence[Arrival], plan: Plan | None, *, first: bool = False) -> None:
        """Queue claimed events of one plan; with `first` at the front."""
        for arrival in reversed(arrivals) if first else arrivals:
            waiting = self._events.setdefault((plan, arrival.epoch), deque())
            (waiting.appendleft if first else waiting.append)(arrival)
            self._queued += 1
        self._update()

    async def get(self) -> WorkItem:
        """Wait for a work item, and remove it."""
        while not self._events:  # another worker may have been faster
            await self._has_events.wait()
        key = plan, _ = next(iter(self._events))
        waiting = self._events.pop(key)
        size, room_bytes = _work_max_events(plan), WORK_MAX_BYTES
        work = [waiting.popleft()]
        while waiting and len(work) < size and (room_bytes := room_bytes - work[-1].cost_bytes) > 0:
            if waiting[0].cost_bytes > room_bytes:
                break
            work.append(waiting.popleft())
        if waiting:
            self._events[key] = waiting
        self._queued -= len(work)
        self._update()
        work.sort(key=_OFFSET)  # requeued events may have come back in any order
        return work

    def put_whole(self, ranges: Sequence[Range]) -> None:
        """Queue claimed ranges, undecoded."""
        for each in ranges:
            each.is_whole = True
        self._whole.extend(ranges)
        self._queued += sum(each.size for each in ranges)
        self._update()

    async def get_whole(self) -> list[Range]:
        """Wait for whole ranges, and remove the next of one epoch."""
        while not self._whole:
            await self._has_whole.wait()
        taken = [self._whole.popleft()]
        events, bytes_ = taken[0].size, taken[0].cost_bytes
        while self._whole and self._whole[0].epoch == taken[0].epoch:
            events, bytes_ = events + self._whole[0].size, bytes_ + self._whole[0].cost_bytes
            if events > WHOLE_MAX_EVENTS or bytes_ > WORK_MAX_BYTES:
                break
            taken.append(self._whole.popleft())
        self._queued -= sum(each.size for each in taken)
        self._update()
        return taken

    @property
    def is_empty(self) -> bool:
        """Whether it has no claimed events."""
        return not self._queued

    @property
    def next_offset(self) -> int | None:
        """The offset of the event that `get` would return first; None if there is none."""
        return next((waiting[0].offset for waiting in self._events.values()), None)

    def _update(self) -> None:
        for event, is_set in (
            (self._has_events, bool(self._events)),
            (self._has_whole, bool(self._whole)),
            (self._may_claim, bool(self._ranges) and self._queued <= self.ahead_max_events // 2),
        ):
            if is_set:
                event.set()
            else:
                event.clear()


class WorkQueues:
    """All queues of a listener; `ready_ahead` is the number of attempts that the store prepares in advance."""

    def __init__(self, app: App, *, handler_concurrency: int, ready_ahead: int) -> None:
        self._app = app
        one_by_one_workers = handler_concurrency + ready_ahead
        batch_max = max(app.batch_sizes, default=1)
        batch_workers = min(BATCH_WORKERS, handler_concurrency)
        self.store_only = WorkQueue(STORE_WORKERS, WORK_ITEMS_AHEAD * STORE_WORKERS * RANGE_MAX_EVENTS)
        self.batched = WorkQueue(batch_workers, WORK_ITEMS_AHEAD * batch_workers * batch_max)
        self.one_by_one = WorkQueue(one_by_one_workers, WORK_ITEMS_AHEAD * one_by_one_workers)
        self.lock_timeouts = WorkQueue(max(1, handler_concurrency // LOCK_TIMEOUT_SHARE), 1)
        self.all = (self.store_only, self.batched, self.one_by_one, self.lock_timeouts)

    def of_range(self, range: Range) -> WorkQueue:
        """Return the queue that claims a range: that of its slowest kind of event."""
        found = self.store_only
        for arrival in range.arrivals:
            plan = self._app.plan_of(arrival.type, arrival.source)
            if plan.handlers:
                if plan.together_max == 1:
                    return self.one_by_one
                found = self.batched
        return found

    def put(self, arrivals: Iterable[Arrival], *, first: bool = False) -> None:
        """Queue claimed events; with `first` at the front, because they are older."""
        by_kind: dict[tuple[WorkQueue, Plan | None], list[Arrival]] = {}
        for arrival in arrivals:
            by_kind.setdefault(self._of(arrival), []).append(arrival)
        for (queue, plan), group in by_kind.items():
            # At the back after a lock timeout, so that each of them gets its turn.
            queue.put(group, plan, first=first and queue is not self.lock_timeouts)

    def _of(self, arrival: Arrival) -> tuple[WorkQueue, Plan | None]:
        if arrival.lock_timeout:
            return self.lock_timeouts, None
        if arrival.attempts or arrival.terminal_error is not None:
            return self.one_by_one, None
        plan = self._app.plan_of(arrival.type, arrival.source)
        if not plan.handlers:
            return self.store_only, plan
        if plan.together_max == 1 or is_quarantined(arrival.range.takeovers):
            return self.one_by_one, None
        return self.batched, plan


def _work_max_events(plan: Plan | None) -> int:
    if plan is None:
        return 1
    return plan.together_max if plan.handlers else RANGE_MAX_EVENTS
