"""The way of an event through a listener, and the one place where its stations are joined.

                       ┌────────── insert whole ──────────┐
                       │             ▼ refused            ▼
receive ─▶ order ─▶ claim ─▶ identities ─▶ queue ─▶ attempt ─▶ end ─▶ journal position ─▶ cursor
              ▲       └ leased elsewhere ─▶ watch ┐             │
              └──────────── requeue ◀─────────────┴─────────────┘

Ranges that nobody has decoded, because no handler waits for their events, are inserted whole. Otherwise an event is
put into a queue when this listener has acquired its range, and when it waits for no other event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import count, groupby
from operator import attrgetter
from typing import Any

import msgspec

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.errors import NoThread, OncecastError, RowLocked, Unavailable
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import CrashLog, ListenerStore
from oncecast.core.positions import JournalPosition
from oncecast.core.ranges import Range
from oncecast.core.telemetry import (
    Duplicates,
    HandlersBlocked,
    Persisted,
    Record,
    ServerReplaced,
    Started,
    StationTook,
)
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.dependencies.takeover import CHECK_INTERVAL_S, Takeovers
from oncecast.listener.pipeline.attempt import AttemptLimits, Attempts, Ended, Requeue
from oncecast.listener.pipeline.end import telemetry_of
from oncecast.listener.pipeline.identities import COMPARED_MAX_EVENTS, Identities
from oncecast.listener.pipeline.order import admit, next_in_order
from oncecast.listener.pipeline.queues import WORK_MAX_BYTES, WorkItem, WorkQueue, WorkQueues
from oncecast.listener.recent import Recent
from oncecast.tasks import STALL_S, idle, working

RECORD_INTERVAL_S = 0.2
"""One call per range would cost as much as a handler, and other listeners check every half second. If this process
crashes before it records the ranges, they take them over and find the rows."""
ORDER_CHECKS = 4
"""Every fourth check of leases also looks for rows of events that ordered events wait for: every 2 s."""
NO_THREAD_WAIT_S = 1.0
"""The delay before released ranges are claimed again: other listeners check twice in that time."""
_TRACK = attrgetter("track")
_FIRST = attrgetter("first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a pipeline works with."""

    app: App
    store: ListenerStore
    crash_log: CrashLog
    leases: LeaseGate
    database: DatabaseGate
    recent: Recent
    exclusive_run: ExclusiveRun
    options: RunOptions
    limits: AttemptLimits


class Pipeline:
    """Ends received events, together with the other listeners of the group.

    `emitted()` is called when handlers wrote to the outbox, `dead_lettered()` when an event has a row as dead letter,
    perhaps from another listener or from a try whose answer was lost.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        lease_ttl_s: float,
        emitted: Callable[[], None],
        dead_lettered: Callable[[], None],
        record: Record,
    ) -> None:
        self._app = parts.app
        self._store = parts.store
        self._leases = parts.leases
        self._database = parts.database
        self._recent = parts.recent
        self._clock = parts.options.clock
        self._abandoned_threads_max = parts.options.abandoned_threads_max
        self._renew_interval_s = lease_ttl_s / 10
        self._emitted = emitted
        self._dead_lettered = dead_lettered
        self._record = record
        self._attempts = Attempts(
            parts.app,
            parts.store,
            parts.crash_log,
            parts.database,
            parts.options,
            parts.limits,
            parts.exclusive_run,
            record=record,
        )
        self.queues = WorkQueues(
            parts.app,
            handler_concurrency=parts.limits.handler_concurrency,
            ready_ahead=parts.store.ready_ahead,
        )
        self.takeovers = Takeovers(parts.leases, parts.store, parts.crash_log, self._clock, record=record)
        self._identities = Identities()
        self._tracks: set[JournalPosition] = set()
        self._unrecorded: list[Range] = []
        """Ranges that have ended here, and that PostgreSQL has not recorded."""
        self._has_unrecorded = asyncio.Event()
        self._running = 0
        self._progressed = asyncio.Event()
        """Set when a worker has finished a work item."""
        self._draining = False
        self._threads_reported = False

    @property
    def in_flight(self) -> int:
        """The number of received events that have not ended."""
        return sum(each.unended for each in self._ranges())

    def _ranges(self) -> Iterator[Range]:
        """Yield all ranges with events that have not ended."""
        return (each for track in self._tracks for each in track.ranges)

    @property
    def handlers_running(self) -> int:
        """The number of transactions with handlers that run now."""
        return self._attempts.running

    def claim_loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return a loop for each queue, which claims the ranges that wait for it."""
        return [self._claim_loop(queue) for queue in self.queues.all]

    def work_loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return the loop of each worker."""
        of_whole = [self._insert_loop() for _ in range(self.queues.store_only.workers)]
        return of_whole + [self._work_loop(queue) for queue in self.queues.all for _ in range(queue.workers)]

    # --- receive and claim ---------------------------------------------------------------------------------

    def receive(self, ranges: Sequence[Range]) -> None:
        """Take over the ranges of a frame."""
        self._admit(ranges)
        for queue, group in groupby(ranges, key=self.queues.of_range):
            queue.add_ranges(group)

    def _admit(self, ranges: Sequence[Range]) -> None:
        if self._app.has_order:
            for each in ranges:
                admit(self._app, each.arrivals)
        self._tracks.update(each.track for each in ranges)

    async def _claim_loop(self, queue: WorkQueue) -> None:
        """Claim waiting ranges as soon as the queue has room for their events."""
        while True:
            idle()
            waiting = await queue.ranges_to_claim()
            await self._database.wait()
            working(STALL_S)
            if not (waiting := [each for each in waiting if each.is_open]):
                continue
            began_s = self._clock.monotonic_s()
            claims = await self._leases.claim(waiting)
            self._record(StationTook("claim", self._clock.monotonic_s() - began_s))
            self.end_elsewhere(claims.ended)
            # rule: a range leased by another listener has not ended
            self.takeovers.add(claims.leased_elsewhere)
            if self._database.is_up:
                self._acquire(claims.acquired)
            else:  # they were claimed after the others had been released
                await self._leases.release(claims.acquired)
                self._put_back(claims.acquired)

    def _acquire(self, ranges: Iterable[Range]) -> None:
        """Queue claimed ranges: whole if possible, else event by event."""
        whole: list[Range] = []
        others: list[Range] = []
        for each in ranges:
            each.acquired = True
            # rule: a range is queued once
            if not each.is_whole:
                (whole if _may_be_whole(each) else others).append(each)
        if sum(each.size for each in whole) >= self._store.whole_min_events:
            self.queues.store_only.put_whole(whole)
        else:
            others += whole
        self._load(others)

    def _load(self, ranges: Iterable[Range]) -> None:
        """Queue the events of claimed ranges that wait for no other event."""
        for each in ranges:
            try:
                each.load()
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                each.track.fail(str(error))
            self._put([a for a in each.arrivals if not (a.busy or a.waits or a.gone)])

    def _put(self, arrivals: Sequence[Arrival]) -> None:
        self.queues.put(self._identities.enter(arrivals))

    def _put_back(self, ranges: Iterable[Range]) -> None:
        """Let ranges be claimed again, before newer ones."""
        for each in sorted((each for each in ranges if each.is_open), key=_FIRST, reverse=True):
            self.queues.of_range(each).put_range_back(each)

    async def watch_loop(self) -> None:
        """Check the ranges that are leased elsewhere."""
        for check in count(1):
            working(STALL_S)
            await self._clock.sleep(CHECK_INTERVAL_S)
            if check % ORDER_CHECKS == 0 and self._database.is_up:
                await self.end_predecessors()
            if self.takeovers.count:
                found = await self.takeovers.peek()
                self.end_elsewhere(found.ended)
                self._put_back(found.free + found.acquired)
                self._put_back(await self.takeovers.take_over(found.leased_elsewhere))

    async def end_predecessors(self) -> None:
        """End events of ranges leased elsewhere for which ordered events wait here, if they have rows.

        The done marker of their range may be late: it waits for every event of the range.
        """
        while heads := self._heads_elsewhere()[:COMPARED_MAX_EVENTS]:
            found = await self._compared(heads)
            known = [(a, outcome) for a, outcome in found if not (outcome is None or a.gone or a.range.acquired)]
            for head, outcome in known:
                self._after_commit(Ended([head], [outcome]))
            if not known:
                return

    def _heads_elsewhere(self) -> list[Arrival]:
        """Return the first event of each key for which an event here waits, if the first is leased elsewhere."""
        pairs = [pair for track in self._tracks for pair in track.followers.items()]
        keys = {before.turn.key for before, follower in pairs if before.turn and follower.range.acquired}
        return [
            before
            for before, _ in pairs
            if before.turn and before.turn.key in keys and not (before.waits or before.range.acquired)
        ]

    # --- attempt -------------------------------------------------------------------------------------------

    async def _insert_loop(self) -> None:
        """Insert whole ranges, in one transaction after the other; attempt the events of those that are refused."""
        while True:
            idle()
            taken = await self.queues.store_only.get_whole()
            self._running += 1
            try:
                await self._insert_whole([each for each in taken if each.acquired and each.is_open])
            finally:
                self._running -= 1
                for each in taken:
                    each.is_whole = False
            self._progressed.set()

    async def _insert_whole(self, ranges: Sequence[Range]) -> None:
        types = await self._attempts.insert_whole(ranges) if ranges else None
        if types is not None:
            self._end_whole([each for each in ranges if each.is_open], types)
        else:
            self._load(each for each in ranges if each.acquired and each.is_open)

    async def _work_loop(self, queue: WorkQueue) -> None:
        """Run one worker: attempt one work item after the other."""
        while True:
            idle()
            work = await queue.get()
            ours = [arrival for arrival in work if self._is_ours(arrival)]
            if len(ours) < len(work):
                self._drop([arrival for arrival in work if not self._is_ours(arrival)])
            if queue is self.queues.batched and any(is_quarantined(arrival.range.takeovers) for arrival in ours):
                for arrival in ours:
                    if self._is_ours(arrival):
                        await self._attempt([arrival])
                    else:
                        self._drop([arrival])
            elif ours:
                await self._attempt(ours)
            self._progressed.set()

    def _is_ours(self, arrival: Arrival) -> bool:
        """Whether this listener still has to attempt the event."""
        # rule: events of a superseded journal position are dropped
        superseded = arrival.track.is_superseded
        return arrival.range.acquired and not (arrival.gone or superseded)

    async def _attempt(self, work: WorkItem) -> None:
        self._running += 1
        try:
            if not self._has_threads(work[0]):
                await self._release({arrival.range for arrival in work}, NO_THREAD_WAIT_S)
                self._drop(work)
                return
            async for disposition in self._attempts.attempt(work):
                match disposition:
                    case Ended():
                        self._after_commit(disposition)
                    case Requeue():
                        self._requeue(disposition.work, disposition.after_s)
        finally:
            self._running -= 1

    def _has_threads(self, first: Arrival) -> bool:
        """Whether an attempt may start: none does that needs a thread while too many timed-out threads still run."""
        plan = self._app.plan_of(first.type, first.source)
        if plan.in_threads and first.terminal_error is None:
            try:
                self._app.check_threads(plan, self._abandoned_threads_max)
            except NoThread as error:
                if not self._threads_reported:
                    self._record(HandlersBlocked(str(error)))
                self._threads_reported = True
                return False
            self._threads_reported = False
        return True

    def _requeue(self, work: WorkItem, after_s: float = 0.0) -> None:
        """Queue events again, now or after a delay; while draining, leave them for other listeners."""
        # rule: an event that has not ended returns to its queue
        if self._draining:
            return
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self._requeue, work)
            return
        self.queues.put([arrival for arrival in work if self._is_ours(arrival)], first=True)
        self._drop([arrival for arrival in work if not self._is_ours(arrival)])

    def _drop(self, arrivals: Iterable[Arrival]) -> None:
        """Attempt these events no longer; one that has not ended is queued again when its range is acquired again."""
        for arrival in arrivals:
            arrival.track.drop(arrival)
            following = self._identities.leave(arrival, has_ended=arrival.gone)
            if following is not None:
                self.queues.put([following], first=True)

    # --- end -----------------------------------------------------------------------------------------------

    def _after_commit(self, ended: Ended) -> None:
        """End events whose outcome PostgreSQL has committed."""
        self._recent.keep(ended.work, ended.outcomes)
        for telemetry in telemetry_of(ended.work, ended.outcomes, now_s=self._clock.unix_s()):
            self._record(telemetry)
        if ended.emitted:
            self._emitted()
        if ended.work[0].terminal_error is not None:
            self._dead_lettered()
        for arrival in ended.work:
            self._identities.leave(arrival, has_ended=True)
        open_before = {arrival.range for arrival in ended.work if arrival.range.unended}
        self._finish(ended.work)
        self._keep_unrecorded(open_before)

    def _end_whole(self, ranges: Sequence[Range], types: Mapping[str, int]) -> None:
        """End the events of undecoded ranges that PostgreSQL has committed in one transaction."""
        if not ranges:
            return
        batch = (sum(each.size for each in ranges), ranges[0].first_id, ranges[-1].last_id)
        now_s = self._clock.unix_s()
        waited_s = tuple((max(0.0, now_s - each.at_us / 1e6), each.size) for each in ranges)
        self._record(Started(*batch))
        self._record(Persisted(*batch, types=types, waited_s=waited_s))
        for each in ranges:
            self._recent.keep_range(each)
            each.track.end_undecoded(each)
        self._keep_unrecorded(ranges)

    def _keep_unrecorded(self, ranges: Iterable[Range]) -> None:
        """Let the ranges be recorded of which all events have ended."""
        # rule: a range is recorded once all its events have ended
        self._unrecorded += [each for each in ranges if not each.unended]
        if self._unrecorded:
            self._has_unrecorded.set()

    def end_elsewhere(self, ranges: Sequence[Range]) -> None:
        """End the events of ranges that have ended at another listener, by their done markers."""
        for each in filter(attrgetter("is_open"), ranges):
            left = [arrival for arrival in each.arrivals if not arrival.gone]
            if left:
                self._record(Duplicates(len(left), left[0].id, left[-1].id, elsewhere=True))
                self._finish(left)
            else:
                self._record(Duplicates(each.unended, each.first_id, each.last_id, elsewhere=True))
                each.track.end_undecoded(each)
            each.track.record(each)

    def _finish(self, arrivals: Iterable[Arrival]) -> None:
        """Record the end of events in their range, their order and their journal position."""
        released: list[Arrival] = []
        for track, group in groupby((a for a in arrivals if not a.gone), key=_TRACK):
            ended = list(group)
            for arrival in ended:
                arrival.gone = True
                arrival.terminal_error = None  # its traceback references the handler's objects
                if arrival.turn is not None and (follower := next_in_order(arrival)) is not None:
                    released.append(follower)
                arrival.range.unended -= 1
                if not arrival.range.unended:
                    arrival.range.arrivals.clear()  # a cycle that the garbage collector does not see
                    track.ranges.discard(arrival.range)
            track.end(ended)
        self._put([a for a in released if a.range.acquired and not (a.busy or a.gone)])

    async def compare_loop(self) -> None:
        """Compare repeated arrivals with their rows, one batch at a time."""
        while True:
            idle()
            await self._identities.has_repeated.wait()
            await self._database.wait()
            working(STALL_S)
            await self.compare()

    async def compare(self) -> None:
        """Compare a batch of repeated arrivals with their rows; attempt those without a row."""
        taken = self._identities.take_repeated()
        ours = [arrival for arrival in taken if self._is_ours(arrival)]
        self._drop([arrival for arrival in taken if not self._is_ours(arrival)])  # it ended elsewhere meanwhile
        found = await self._compared(ours)
        known = [(a, outcome) for a, outcome in found if outcome is not None]
        if known:
            self._after_commit(Ended([a for a, _ in known], [outcome for _, outcome in known]))
        self._requeue(self._identities.put_back([a for a, outcome in found if outcome is None]))

    async def _compared(self, batch: Sequence[Arrival]) -> list[tuple[Arrival, Outcome | None]]:
        """Compare events with their rows; the outcome of one without a row is None, or of all after an error."""
        if not batch:
            return []
        incarnation = self._store.incarnation
        outcomes: Sequence[Outcome | None] = [None] * len(batch)
        with contextlib.suppress(OncecastError):  # an attempt follows, which handles the error
            found = await self._store.compare([copy(a) for a in batch])  # one that ends meanwhile loses its text
            if self._store.incarnation == incarnation:
                outcomes = found
        return list(zip(batch, outcomes, strict=True))

    # --- leases --------------------------------------------------------------------------------------------

    async def record_loop(self) -> None:
        """Record ended ranges in batches, every RECORD_INTERVAL_S: other listeners do not ask sooner."""
        while True:
            idle()
            await self._has_unrecorded.wait()
            await self._database.wait()
            working(STALL_S)
            await self._clock.sleep(RECORD_INTERVAL_S)
            await self.record_ended()

    async def record_ended(self) -> None:
        """Record the ended ranges in PostgreSQL, and then by done markers in Redis."""
        ended, self._unrecorded = self._unrecorded, []
        self._has_unrecorded.clear()
        # rule: a range of a superseded journal position gets no done marker
        tracks = [each.track for each in ended if not each.track.is_superseded]
        for track in dict.fromkeys(tracks):
            of_track = [each for each in ended if each.track is track]
            await self._record_ranges(of_track, track.incarnation or self._store.incarnation)

    async def _record_ranges(self, ended: list[Range], incarnation: str) -> None:
        began_s = self._clock.monotonic_s()
        try:
            if not await self._store.record_ranges([each.ended for each in ended], incarnation):
                self._record(ServerReplaced(ended[0].track.journal, ended[0].track.saved.offset))
                ended[0].track.abandon()  # its events are read again
                return
        except BaseException as error:  # the next round records them, or `hand_over` releases their leases
            self._unrecorded += ended
            self._has_unrecorded.set()
            if not isinstance(error, Unavailable | RowLocked):
                raise
            return
        self._record(StationTook("record", self._clock.monotonic_s() - began_s))
        for each in ended:
            each.track.record(each)
        # rule: a done marker is written after the range is recorded
        await self._leases.mark_done([each for each in ended if each.leased])

    async def renew_loop(self) -> None:
        """Renew the leases, and forget ranges of superseded journal positions."""
        while True:
            working(STALL_S)
            await self._clock.sleep(self._renew_interval_s)
            self._tracks = {track for track in self._tracks if not track.is_superseded}
            await self._leases.renew(self._ranges())

    async def release_all(self) -> None:
        """Release all leases: another listener may still reach PostgreSQL."""
        await self._release([each for each in self._ranges() if each.acquired])

    async def _release(self, ranges: Iterable[Range], after_s: float = 0.0) -> None:
        """Release ranges, and let them be claimed again after a delay."""
        released = list(ranges)
        for each in released:
            each.acquired = False
        await self._leases.release(released)
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self._put_back, released)
        else:
            self._put_back(released)

    # --- drain ---------------------------------------------------------------------------------------------

    async def finish_claimed(self) -> None:
        """Finish the claimed events; leave those that must be attempted again to other listeners."""
        self._draining = True
        while self._running or not all(queue.is_empty for queue in self.queues.all):
            self._progressed.clear()
            await self._progressed.wait()

    async def hand_over(self) -> int:
        """Record the ended ranges and release all leases; return the number of events that have not ended."""
        await self.record_ended()
        left = list(self._ranges())
        for each in left:  # a cancelled claim may have leased any of them
            each.leased = True
        await self._leases.release([*left, *self._unrecorded])
        return sum(each.unended for each in left)


def _may_be_whole(each: Range) -> bool:
    """Whether a claimed range may be inserted whole: probably nobody else inserts its events."""
    return bool(each.raws) and each.leased and not each.takeovers and each.cost_bytes <= WORK_MAX_BYTES
