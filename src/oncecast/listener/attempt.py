"""The attempt station: handler and insert in one transaction, and what follows when that fails.

What an error costs is decided by `classify`; here is what it then means. The database's tries are nested in
the attempt: when they are used up the system pauses, the leases are handed back and the events wait, unharmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oncecast.core.errors import (
    Contended,
    Cost,
    CrashLoop,
    HeldUp,
    OutOfTurn,
    Reject,
    Retry,
    RowLocked,
    Unavailable,
    classify,
)
from oncecast.core.event import Arrival
from oncecast.core.facts import InsertFailed, Observe, ProcessingFailed, Started, Suspected
from oncecast.core.ports import EventStore, Outcome
from oncecast.core.taken import is_suspect
from oncecast.core.transaction import OpenTransaction
from oncecast.listener.claim import Work
from oncecast.listener.gates import DatabaseGate
from oncecast.listener.handlers import Listener
from oncecast.listener.solo import Solo
from oncecast.listener.trial import Trial
from oncecast.observe.tracebacks import users_traceback

WAIT_S = 0.5
"""Before an event is tried again that another's open transaction holds."""
HELD_UP_PARTS_MAX = 14
"""So many parts in a row may wait in vain for a lock: ten halvings lead from the largest batch to one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimits:
    """How often, and how long between: `db_*` within one attempt, `event_*` between attempts."""

    db_attempts: int = 3
    db_retry_delay_s: float = 2.0
    event_attempts: int = 3
    event_retry_delay_s: float = 2.0
    pauses_max: int = 20
    claims_max: int = 2
    handler_timeout_s: float = 60.0
    handler_concurrency: int = 8
    retry_after_max_s: float = 300.0


class Attempts:
    """Attempts pieces of work and sends every event on: to `settle`, or back to its line.

    `settle(work, outcomes)` is called with what has ended. `come_back(arrival, delay_s)` brings an event back to its
    line, `let_go(arrival)` is for one whose turn its abandoned track cannot bring about. `paused()` is called when
    the database is found to be down, `emitted()` when handlers have left something in the outbox, `buried()` when one
    has its row as dead: it may be another's, or ours of a try whose answer was lost.
    """

    def __init__(
        self,
        app: Listener,
        store: EventStore,
        database: DatabaseGate,
        *,
        limits: AttemptLimits,
        settle: Callable[[Work, list[Outcome]], None],
        come_back: Callable[[Work, float], None],
        let_go: Callable[[Arrival], None],
        paused: Callable[[], None],
        trial: Trial,
        solo: Solo,
        observe: Observe,
        emitted: Callable[[], None],
        buried: Callable[[], None],
        check_emitted: Callable[[bytes], None] | None = None,
    ) -> None:
        self._app = app
        self._store = store
        self._database = database
        self._limits = limits
        self._settle = settle
        self._come_back = come_back
        self._let_go = let_go
        self._paused = paused
        self._trial = trial
        self._solo = solo
        self._observe = observe
        self._emitted = emitted
        self._buried = buried
        self._check_emitted = check_emitted
        self._handler_places = asyncio.Semaphore(limits.handler_concurrency + store.ready_ahead)
        self._ended = 0
        self._unannounced: set[Arrival] = set()
        """Events whose attempt has begun, but of which it is not known yet that it is no duplicate."""

    async def attempt(self, work: Work) -> None:
        """Bring `work` to an end, or send it where it goes next. Raises nothing but cancellation."""
        first = work[0]
        if first.doom is None and is_suspect(first.rescues):
            async with self._solo.alone():
                await self._attempt_suspect(first)
            return
        async with self._solo.together():
            self._unannounced.update(arrival for arrival in work if arrival.doom is None)
            try:
                await self._attempt(work)
            finally:
                self._unannounced.difference_update(work)

    async def _attempt_suspect(self, suspect: Arrival) -> None:
        """It stands in Redis or PostgreSQL what is going on: should this process die now, it was this event."""
        try:
            deaths = await self._trial.begin(suspect)
        except Unavailable as error:
            self._failed([suspect], error)
            return
        if deaths >= self._limits.claims_max:
            suspect.doom = CrashLoop(f"{self._limits.claims_max} processes died while they attempted it alone")
        else:
            self._observe(Suspected(suspect.id, suspect.rescues))
        await self._attempt([suspect])
        await self._trial.end(suspect)

    async def _attempt(self, work: Work) -> None:
        """Attempt it, and in parts what fails together: one of them is bad, and the good ones must not suffer.

        Where it is a lock that all of them wait for, one part after the other, the rest comes back as it is.
        """
        left, held_up = [work], 0
        while left:
            part = left.pop()
            error = await self._attempt_once(part)
            held_up = held_up + 1 if isinstance(error, HeldUp) else 0
            if error is None:
                continue
            if len(part) > 1 and _may_be_of_one(error):
                for arrival in part:
                    arrival.attempts -= 1
                left += reversed(self._app.plan_of(part[0].type, part[0].source).parts(part))
            else:
                self._failed(part, error)
            if held_up > HELD_UP_PARTS_MAX:
                break
        for part in left:
            self._come_back(part, WAIT_S)

    async def _attempt_once(self, work: Work) -> Exception | None:
        for arrival in work:
            arrival.attempts += arrival.doom is None
        try:
            outcomes = await self._try_database(work)
        except Exception as error:  # classified: every error is a decision about these events
            return error
        self._ended += len(work)
        self._announce([a for a, outcome in zip(work, outcomes, strict=True) if outcome is Outcome.STORED])
        if work[0].doom is not None:
            self._buried()
        self._settle(work, outcomes)
        return None

    async def _try_database(self, work: Work) -> list[Outcome]:
        """End `work`, trying again while the database fails; raises the last error."""
        tries = self._limits.db_attempts
        while True:
            tries -= 1
            self._database.asked(work[0])
            try:
                try:
                    return await self._end(work)
                finally:
                    self._database.answered(work[0])
            except Unavailable as error:
                if len(work) > 1 and isinstance(error, Contended):
                    raise  # in parts it will be in nobody's way
                self._announce(work)
                for arrival in work:
                    arrival.retried = True
                self._observe(InsertFailed(work[0].id, str(error), tries))
                if not tries or await self._database.wait_down(self._limits.db_retry_delay_s):
                    raise

    async def _end(self, work: Work) -> list[Outcome]:
        first = work[0]
        if first.doom is not None:
            return [await self._store.bury(first, first.doom)]
        if not self._app.concerns(first.type, first.source):
            return await self._store.insert(work)
        emitted = False

        async def handle(tx: OpenTransaction, arrivals: Sequence[Arrival]) -> None:
            nonlocal emitted
            self._announce(arrivals)
            timeout_s = self._limits.handler_timeout_s
            await self._app.handle(arrivals, tx, timeout_s=timeout_s, check=self._check_emitted)
            emitted = bool(tx.emitted)

        async with self._handler_places:
            if len(work) > 1:
                outcomes = await self._store.process_together(work, handle)
            else:
                outcomes = [await self._store.process(first, lambda tx: handle(tx, work))]
        if emitted:
            self._emitted()
        return outcomes

    def _announce(self, arrivals: Sequence[Arrival]) -> None:
        """Report, once for each attempt, that its events are being processed: a duplicate never is."""
        if new := [arrival for arrival in arrivals if arrival in self._unannounced]:
            self._unannounced.difference_update(new)
            self._observe(Started(len(new), new[0].id, new[-1].id))

    def _failed(self, work: Work, error: Exception) -> None:
        cost = classify(error)
        if isinstance(error, Contended):
            self._spare(work, error, delay_s=WAIT_S)
        elif isinstance(error, OutOfTurn) and work[0].track.abandoned.is_set():
            self._let_go(work[0])
        elif cost is Cost.PAUSE:
            self._database.lost(error)
            self._paused()  # each time: a claim under way may have brought leases since the last hand-back
            self._spare(work, error)
        elif cost is Cost.WAIT:
            if len(work) == 1:
                work[0].held_up = isinstance(error, RowLocked) and not isinstance(error, OutOfTurn)
            self._spare(work, error, delay_s=WAIT_S)
        else:
            self._spend(work[0], error, last=cost is Cost.DEAD)

    def _spare(self, work: Work, error: Exception, *, delay_s: float = 0.0) -> None:
        """No attempt is spent. But an event that fails alone on the database, while others end, pays in the end."""
        if len(work) == 1 and isinstance(error, Unavailable) and self._is_its_own(work[0]):
            self._spend(work[0], error, last=False)
            return
        for arrival in work:
            arrival.attempts -= arrival.doom is None
        self._come_back(work, delay_s)

    def _is_its_own(self, arrival: Arrival) -> bool:
        """Whether the database's error is this event's own by now.

        A probe that succeeds proves too little: what is true of its small write need not be of ours. That others
        have ended since is the proof.
        """
        arrival.pauses += arrival.others_ended < self._ended
        arrival.others_ended = self._ended
        return arrival.pauses > self._limits.pauses_max and arrival.doom is None

    def _spend(self, arrival: Arrival, error: Exception, *, last: bool) -> None:
        """One attempt is spent: back after a delay, or to the grave after the last."""
        left = 0 if last else max(0, self._limits.event_attempts - arrival.attempts)
        trace = "" if isinstance(error, Reject | Retry | CrashLoop) else users_traceback(error)
        self._announce([arrival])
        self._observe(ProcessingFailed(arrival.id, f"{type(error).__name__}: {error}", left, arrival.source, trace))
        arrival.pauses = 0
        arrival.held_up = False
        arrival.raw = arrival.raw.copy()  # it stays for a while, and its frame shall not stay for its sake
        buried_before = arrival.doom is not None
        if not left and not buried_before:
            arrival.doom = error
        self._come_back([arrival], self._delay_s(error) if left or buried_before else 0.0)

    def _delay_s(self, error: Exception) -> float:
        if isinstance(error, Retry):
            return min(error.after_s, self._limits.retry_after_max_s)
        return self._limits.event_retry_delay_s


def _may_be_of_one(error: Exception) -> bool:
    """Whether the error of several events may be that of one of them."""
    return isinstance(error, Contended | HeldUp) or classify(error) in (Cost.RETRY, Cost.DEAD)
