"""The attempt stage: run handlers and insert in one transaction, and react to its failure.

`classify` decides what an error costs. Database retries are nested in the attempt: when they are used up, the
listener pauses, releases its leases, and the events wait without spending an attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias, TypeVar

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.attempts import FailedAttempt
from oncecast.core.errors import (
    AttemptsSpent,
    Cost,
    CrashLoop,
    LockTimeout,
    NotNext,
    Reject,
    Retry,
    RowLocked,
    TransactionConflict,
    Unavailable,
    classify,
    error_text,
    reason_of,
)
from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.ports import CrashLog, EventStore
from oncecast.core.ranges import Range
from oncecast.core.telemetry import (
    InsertFailed,
    ProcessingFailed,
    Quarantined,
    Record,
    Started,
    Station,
    StationTook,
)
from oncecast.core.tracebacks import users_traceback
from oncecast.core.transaction import OpenTransaction
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.listener.pipeline.queues import WorkItem
from oncecast.tasks import STALL_S, working

AnswerT = TypeVar("AnswerT")

WAIT_S = 0.5
"""The delay before retrying an event whose row another transaction has locked."""
UNLEASED_JITTER_S = 0.5
"""Without leases, several listeners wait for the same attempt; jitter keeps them from starting it together."""
LOCK_TIMEOUTS_MAX = 14
"""The maximum number of consecutive lock timeouts: ten halvings lead from the largest batch to one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimits:
    """Numbers and delays of retries: `db_*` within one attempt, `event_*` between attempts."""

    db_attempts: int = 3
    db_retry_delay_s: float = 2.0
    event_attempts: int = 3
    event_retry_delay_s: float = 2.0
    db_errors_per_event_max: int = 20
    crashes_per_event_max: int = 2
    handler_timeout_s: float = 60.0
    handler_concurrency: int = 8
    retry_after_max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Ended:
    """Events whose outcome PostgreSQL has committed, in the order of their outcomes."""

    work: WorkItem
    outcomes: list[Outcome]
    emitted: bool = False
    """Whether their handlers wrote to the outbox."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Events to attempt again after a delay."""

    work: WorkItem
    after_s: float = 0.0


Disposition: TypeAlias = Ended | Requeue
"""What becomes of events after an attempt."""


class Attempts:
    """Attempts work items. Each `attempt` yields what becomes of the events, as soon as that is decided."""

    def __init__(
        self,
        app: App,
        store: EventStore,
        crash_log: CrashLog,
        database: DatabaseGate,
        options: RunOptions,
        limits: AttemptLimits,
        exclusive_run: ExclusiveRun,
        *,
        record: Record,
    ) -> None:
        self._app = app
        self._store = store
        self._crash_log = crash_log
        self._database = database
        self._options = options
        self._clock = options.clock
        self._limits = limits
        self._exclusive_run = exclusive_run
        self._record = record
        self._process = self._clock.new_token(8)
        self._failures = count(1)
        self._handler_places = asyncio.Semaphore(limits.handler_concurrency + store.ready_ahead)
        self._ended_count = 0
        self._running = 0
        self._unannounced: set[Arrival] = set()
        """Events whose attempt has started, and which are not yet known to be new."""

    async def attempt(self, work: WorkItem) -> AsyncIterator[Disposition]:
        """Attempt `work`; yield what becomes of its events. Raises only cancellation."""
        first = work[0]
        if first.terminal_error is None and self._is_quarantined(first):
            # rule: a quarantined event runs alone
            async with self._exclusive_run.exclusive():
                async for disposition in self._attempt_quarantined(first):
                    yield disposition
            return
        async with self._exclusive_run.shared():
            self._unannounced.update(arrival for arrival in work if arrival.terminal_error is None)
            try:
                async for disposition in self._attempt(work):
                    yield disposition
            finally:
                self._unannounced.difference_update(work)

    async def insert_whole(self, ranges: Sequence[Range]) -> Mapping[str, int] | None:
        """Insert the events of undecoded ranges; return their number by type.

        Return None if they must be attempted, also after an error.
        """
        working(STALL_S)
        began_s = self._clock.monotonic_s()
        whole = self._store.prepare_whole(ranges)
        # rule: an event with a handler is not inserted without it
        if whole is None or any(self._app.concerns(type, source) for type, source in whole.kinds):
            return None
        first = ranges[0]
        async with self._exclusive_run.shared():
            self._database.asked(first)
            try:
                is_stored = await self._store.insert_whole(whole)
            except BaseException as error:
                self._database.answered(first, error)
                if not isinstance(error, Unavailable):
                    raise
                return None
        if not is_stored:
            self._database.dropped(first)
            return None
        self._database.answered(first)
        self._ended_count += sum(each.size for each in ranges)
        self._record(StationTook("insert", self._clock.monotonic_s() - began_s))
        types: Counter[str] = Counter()
        for (type, _), number in whole.kinds.items():
            types[type] += number
        return types

    @property
    def running(self) -> int:
        """The number of transactions with handlers that run now."""
        return self._running

    def _is_quarantined(self, arrival: Arrival) -> bool:
        """Whether the event may have crashed the owners of its range; one without handlers cannot."""
        return is_quarantined(arrival.range.takeovers) and self._app.concerns(arrival.type, arrival.source)

    async def _attempt_quarantined(self, quarantined: Arrival) -> AsyncIterator[Disposition]:
        """Record the quarantined event before running it, so that a crash of this process is attributed to it."""
        try:
            crashes = await self._crash_log.begin_isolated(quarantined)
        except (Unavailable, RowLocked) as error:
            quarantined.attempts += 1  # `_failed` subtracts it again
            yield await self._failed([quarantined], error)
            return
        # rule: an event that keeps killing its process becomes a dead letter
        if crashes >= self._limits.crashes_per_event_max:
            quarantined.terminal_error = CrashLoop(
                f"{self._limits.crashes_per_event_max} processes died while handling it alone"
            )
        else:
            self._record(Quarantined(quarantined.id, quarantined.range.takeovers))
        async for disposition in self._attempt([quarantined]):
            yield disposition
        # After an error the event has not ended, and its next attempt removes the record.
        with contextlib.suppress(Unavailable, RowLocked):
            await self._crash_log.end_isolated(quarantined)

    async def _attempt(self, work: WorkItem) -> AsyncIterator[Disposition]:
        """Attempt `work`; if it fails, attempt it in parts, so that one bad event does not harm the others.

        If the parts run into lock timeouts one after another, requeue the rest.
        """
        left, lock_timeouts = [work], 0
        while left:
            part = left.pop()
            try:
                ended, requeued = await self._attempt_once(part)
            except Exception as error:  # `_failed` classifies it
                lock_timeouts = lock_timeouts + 1 if isinstance(error, LockTimeout) else 0
                if len(part) > 1 and _may_be_of_one(error):
                    # rule: a batch that fails spends no attempt of its events
                    for arrival in part:
                        arrival.attempts -= 1
                    left += reversed(self._app.plan_of(part[0].type, part[0].source).parts(part))
                else:
                    yield await self._failed(part, error)
                if lock_timeouts > LOCK_TIMEOUTS_MAX:
                    break
            else:
                lock_timeouts = 0
                if ended.work:
                    yield ended
                for requeue in requeued:
                    yield requeue
        for part in left:
            yield Requeue(part, WAIT_S)

    async def _attempt_once(self, work: WorkItem) -> tuple[Ended, list[Requeue]]:
        working(self._limits.db_attempts * (self._limits.handler_timeout_s + STALL_S))
        for arrival in work:
            arrival.attempts += arrival.terminal_error is None
        began_s = self._clock.monotonic_s()
        outcomes, emitted = await self._try_database(work, lambda: self._write_outcome(work))
        has_handlers = self._app.concerns(work[0].type, work[0].source)
        station: Station = "transaction" if has_handlers else "insert"
        self._record(StationTook(station, self._clock.monotonic_s() - began_s))
        ended, requeued = self._heed_earlier(work, outcomes)
        self._ended_count += len(ended.work)
        self._announce([a for a, o in zip(ended.work, ended.outcomes, strict=True) if o is Outcome.STORED])
        return replace(ended, emitted=emitted), requeued

    def _heed_earlier(self, work: WorkItem, outcomes: list[Outcome | EarlierAttempts]) -> tuple[Ended, list[Requeue]]:
        """Return the ended events and their outcomes, and those that have failed before at other listeners."""
        ended, requeued = Ended([], []), []
        for arrival, outcome in zip(work, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                ended.work.append(arrival)
                ended.outcomes.append(outcome)
                continue
            arrival.attempts = outcome.attempts
            if outcome.attempts >= self._limits.event_attempts:
                arrival.terminal_error = AttemptsSpent(outcome.error)
                requeued.append(Requeue([arrival]))
            else:
                arrival.raw = arrival.raw.copy()  # it waits; a slice would keep the whole frame in memory
                apart_s = 0.0 if arrival.range.leased else self._clock.random() * UNLEASED_JITTER_S
                requeued.append(Requeue([arrival], min(outcome.due_in_s, self._delay_max_s) + apart_s))
        return ended, requeued

    async def _try_database(self, work: WorkItem, ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Call `ask` for `work`, with retries while PostgreSQL is unavailable; raise the last error."""
        tries = self._limits.db_attempts
        while True:
            tries -= 1
            self._database.asked(work[0])
            try:
                answer = await ask()
            except BaseException as error:
                self._database.answered(work[0], error)
                if not isinstance(error, Unavailable):
                    raise
                if len(work) > 1 and isinstance(error, TransactionConflict):
                    raise  # smaller parts conflict less
                self._announce(work)
                for arrival in work:
                    arrival.retried = True
                self._record(InsertFailed(work[0].id, str(error), tries))
                if not tries or await self._database.wait_down(self._limits.db_retry_delay_s):
                    raise
            else:
                self._database.answered(work[0])
                return answer

    async def _write_outcome(self, work: WorkItem) -> tuple[list[Outcome | EarlierAttempts], bool]:
        """End `work` in PostgreSQL; return the outcomes, and whether handlers wrote to the outbox."""
        first = work[0]
        if first.terminal_error is not None:
            outcome, first.attempts = await self._store.dead_letter(first, first.terminal_error)
            return [outcome], False
        if not self._app.concerns(first.type, first.source):
            if first.attempts > 1:  # it has failed before, and runs by itself
                return [await self._store.process(first, _store_only)], False
            return await self._store.insert(work), False
        emitted = False

        async def handle(tx: OpenTransaction, arrivals: Sequence[Arrival]) -> None:
            nonlocal emitted
            self._announce(arrivals)
            await self._app.handle(arrivals, tx, self._options)
            emitted = bool(tx.emitted)

        async with self._handler_places:
            self._running += 1
            try:
                if len(work) > 1:
                    outcomes = await self._store.process_together(work, handle)
                else:
                    outcomes = [await self._store.process(first, lambda tx: handle(tx, work))]
            finally:
                self._running -= 1
        return outcomes, emitted

    def _announce(self, arrivals: Sequence[Arrival]) -> None:
        """Report once per attempt that events are being processed; duplicates are never reported."""
        if new := [arrival for arrival in arrivals if arrival in self._unannounced]:
            self._unannounced.difference_update(new)
            self._record(Started(len(new), new[0].id, new[-1].id))

    async def _failed(self, work: WorkItem, error: Exception) -> Requeue:
        """Return what becomes of `work` after `error`."""
        cost = classify(error)
        if isinstance(error, TransactionConflict):
            return await self._keep_attempts(work, error, after_s=WAIT_S)
        # rule: an outage of PostgreSQL spends no attempt
        if cost is Cost.PAUSE:
            self._database.lost(error)
            return await self._keep_attempts(work, error)
        if cost is Cost.WAIT:
            if len(work) == 1:
                work[0].lock_timeout = isinstance(error, RowLocked) and not isinstance(error, NotNext)
            return await self._keep_attempts(work, error, after_s=WAIT_S)
        # rule: a retry that the handler asks for spends an attempt
        return await self._spend(work[0], error, last=cost is Cost.DEAD)

    async def _keep_attempts(self, work: WorkItem, error: Exception, *, after_s: float = 0.0) -> Requeue:
        """Requeue events without spending an attempt, unless the database error is the event's own."""
        if len(work) == 1 and isinstance(error, Unavailable) and self._is_its_own(work[0]):
            return await self._spend(work[0], error, last=False)
        for arrival in work:
            arrival.attempts -= arrival.terminal_error is None
        return Requeue(work, after_s)

    def _is_its_own(self, arrival: Arrival) -> bool:
        """Whether the event itself causes the database's errors.

        A successful probe does not prove it: its small write may work where the event's does not. That other events
        have ended meanwhile does.
        """
        arrival.pauses += arrival.others_ended < self._ended_count
        arrival.others_ended = self._ended_count
        return arrival.pauses > self._limits.db_errors_per_event_max and arrival.terminal_error is None

    async def _spend(self, arrival: Arrival, error: Exception, *, last: bool) -> Requeue:
        """Spend one attempt: requeue the event after a delay, or make it a dead letter after the last."""
        delay_s = self._delay_s(error)
        dead_lettered_before = arrival.terminal_error is not None
        if not last and not dead_lettered_before:
            await self._count(arrival, error, delay_s)
        left = 0 if last else max(0, self._limits.event_attempts - arrival.attempts)
        trace = "" if isinstance(error, Reject | Retry | CrashLoop) else users_traceback(error)
        self._announce([arrival])
        self._record(
            ProcessingFailed(
                arrival.id,
                error_text(error),
                left,
                source=arrival.source,
                traceback=trace,
                type=arrival.type,
                reason=reason_of(error),
            )
        )
        arrival.pauses = 0
        arrival.lock_timeout = False
        arrival.raw = arrival.raw.copy()  # it waits; a slice would keep the whole frame in memory
        if not left and not dead_lettered_before:
            arrival.terminal_error = error
        return Requeue([arrival], delay_s if left or dead_lettered_before else 0.0)

    async def _count(self, arrival: Arrival, error: Exception, delay_s: float) -> None:
        """Count the failed attempt in PostgreSQL, so that the count survives this process.

        If that fails, again after one pause too, the event's next failure makes up for it.
        """
        name = f"{self._process}:{next(self._failures)}"
        failure = FailedAttempt(name, arrival, error_text(error), delay_s)
        for _ in range(2):
            try:
                counted = await self._try_database([arrival], lambda: self._store.count_failure(failure))
            except RowLocked:
                return  # another listener attempts the event, and counts its failure
            except Unavailable as unavailable:
                self._database.lost(unavailable)
                await self._database.wait()
            else:
                arrival.attempts = max(arrival.attempts, counted)
                return

    @property
    def _delay_max_s(self) -> float:
        return max(self._limits.retry_after_max_s, self._limits.event_retry_delay_s)

    def _delay_s(self, error: Exception) -> float:
        if isinstance(error, Retry):
            # rule: the delay that a handler asks for has a limit
            return min(error.after_s, self._limits.retry_after_max_s)
        return self._limits.event_retry_delay_s


async def _store_only(_tx: OpenTransaction) -> None:
    """Do nothing: the work of an event without handlers."""


def _may_be_of_one(error: Exception) -> bool:
    """Whether a single event may have caused the error of a batch."""
    return isinstance(error, TransactionConflict | LockTimeout) or classify(error) in (Cost.RETRY, Cost.DEAD)
