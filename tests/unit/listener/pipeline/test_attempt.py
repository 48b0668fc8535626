"""The outcome of an attempt: ended, requeued with or without a spent attempt, or dead-lettered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.attempts import FailedAttempt
from oncecast.core.errors import (
    CrashLoop,
    DataRefused,
    LockTimeout,
    NotNext,
    Reject,
    Retry,
    RowLocked,
    TransactionConflict,
    Unavailable,
    Unstorable,
)
from oncecast.core.event import Arrival
from oncecast.core.outcomes import DeadLetterResult, EarlierAttempts, Outcome
from oncecast.core.ports import Work, WorkTogether
from oncecast.core.telemetry import InsertFailed, ProcessingFailed, Quarantined, TelemetryEvent
from oncecast.core.transaction import Transaction
from oncecast.event import Event
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.listener.pipeline.attempt import LOCK_TIMEOUTS_MAX, AttemptLimits, Attempts, Ended, Requeue
from oncecast.listener.pipeline.queues import WorkItem
from tests.support.arrivals import arrivals

LIMITS = AttemptLimits(db_retry_delay_s=0.001, event_retry_delay_s=2.0, db_errors_per_event_max=3)


class Written:
    """A transaction that handlers only emit on."""

    def __init__(self) -> None:
        self.emitted: list[bytes] = []


class Store:
    """Refuses what its script says, and keeps what it was given otherwise."""

    incarnation = "1"

    ready_ahead = 0

    def __init__(self) -> None:
        self.refusals: list[Exception] = []
        self.bad: set[str] = set()
        self.never: set[str] = set()
        self.stored: list[str] = []
        self.dead_lettered: list[tuple[str, BaseException]] = []
        self.counted: list[FailedAttempt] = []
        self.counts: list[int | Exception] = []
        self.earlier: list[EarlierAttempts] = []

    async def insert(self, batch: Sequence[Arrival]) -> list[Outcome]:
        self._refuse()
        if bad := self.bad & {x.id for x in batch}:
            raise DataRefused(f"{bad}")
        if never := self.never & {x.id for x in batch}:
            raise Unstorable(f"{never}")
        self.stored += [x.id for x in batch]
        return [Outcome.STORED] * len(batch)

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        self._refuse()
        if self.earlier:
            return self.earlier.pop()
        await work(Written())  # type: ignore[arg-type]
        self.stored.append(arrival.id)
        return Outcome.STORED

    async def process_together(self, batch: Sequence[Arrival], work: WorkTogether) -> list[Outcome]:
        self._refuse()
        await work(Written(), batch)  # type: ignore[arg-type]
        self.stored += [x.id for x in batch]
        return [Outcome.STORED] * len(batch)

    async def dead_letter(self, arrival: Arrival, cause: BaseException) -> DeadLetterResult:
        self._refuse()
        self.dead_lettered.append((arrival.id, cause))
        return DeadLetterResult(Outcome.STORED, arrival.attempts)

    async def count_failure(self, failure: FailedAttempt) -> int:
        self.counted.append(failure)
        answer = self.counts.pop(0) if self.counts else failure.arrival.attempts
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)


class CrashLog:
    """The crash log in PostgreSQL."""

    def __init__(self) -> None:
        self.count = 0
        self.refusals: list[Exception] = []
        self.reported: list[tuple[str, bool]] = []

    async def begin_isolated(self, arrival: Arrival) -> int:
        if self.refusals:
            raise self.refusals.pop()
        self.reported.append((arrival.id, True))
        return self.count

    async def end_isolated(self, arrival: Arrival) -> None:
        self.reported.append((arrival.id, False))


class Harness:
    """An attempt stage, and what became of the events by its dispositions."""

    def __init__(self, app: App | None = None) -> None:
        self.store = Store()
        self.telemetry_events: list[TelemetryEvent] = []
        self.ended: list[str] = []
        self.back: list[tuple[list[str], float]] = []
        self.pauses = self.wakes = 0
        self.crash_log = CrashLog()
        self.database = DatabaseGate(
            self.store,  # type: ignore[arg-type]
            SYSTEM_CLOCK,
            probe_interval_s=1.0,
            paused=self._paused,
            record=self.telemetry_events.append,
        )
        self.station = Attempts(
            app or App(),
            self.store,  # type: ignore[arg-type]
            self.crash_log,  # type: ignore[arg-type]
            self.database,
            RunOptions(clock=SYSTEM_CLOCK, timeout_s=LIMITS.handler_timeout_s),
            LIMITS,
            ExclusiveRun(),
            record=self.telemetry_events.append,
        )

    async def attempt(self, work: WorkItem) -> None:
        async for disposition in self.station.attempt(work):
            match disposition:
                case Ended():
                    self.ended += [x.id for x in disposition.work]
                    self.wakes += disposition.emitted
                case Requeue():
                    self.back.append(([x.id for x in disposition.work], disposition.after_s))

    def _paused(self) -> None:
        self.pauses += 1

    def reported(self, kind: type[TelemetryEvent]) -> list[int]:
        return [telemetry.retries_left for telemetry in self.telemetry_events if isinstance(telemetry, kind)]  # type: ignore[attr-defined]


async def test_a_transient_error_of_the_database_is_tried_again_within_the_attempt() -> None:
    at = Harness()
    at.store.refusals = [Unavailable("x"), Unavailable("x")]
    (arrival,) = arrivals(1)
    await at.attempt([arrival])
    assert (at.ended, at.back, arrival.attempts) == (["1"], [], 1)
    assert at.reported(InsertFailed) == [2, 1]
    assert at.database.is_up


async def test_after_the_last_database_retry_the_listener_pauses_and_spends_no_attempt() -> None:
    at = Harness()
    at.store.refusals = [Unavailable("x")] * 3
    work = arrivals(5)
    await at.attempt(work)
    assert at.back == [(["1", "2", "3", "4", "5"], 0.0)]
    assert [x.attempts for x in work] == [0] * 5
    assert (at.database.is_up, at.pauses) == (False, 1)


async def test_no_retry_is_made_while_the_database_is_known_to_be_down() -> None:
    at = Harness()
    at.database.lost(Unavailable("seen by another worker"))
    at.store.refusals = [Unavailable("x")]
    await at.attempt(arrivals(1))
    assert at.reported(InsertFailed) == [2]


async def test_an_event_that_alone_causes_database_errors_spends_attempts_after_the_limit() -> None:
    at = Harness()
    (arrival,) = arrivals(1)
    for paid in [0] * (LIMITS.db_errors_per_event_max + 1) + [1]:
        at.store.refusals = [Unavailable("x")] * 3
        await at.attempt([arrival])
        assert arrival.attempts == paid
        at.store.refusals = []
        await at.attempt(arrivals(1))
    assert at.reported(ProcessingFailed) == [2]


async def test_while_no_event_ends_database_errors_spend_no_attempt_even_if_probes_succeed() -> None:
    at = Harness()
    work = arrivals(3)
    for _ in range(10 * LIMITS.db_errors_per_event_max):
        for arrival in work:
            at.store.refusals = [Unavailable("disk full")] * 3
            await at.attempt([arrival])
    assert [(x.attempts, x.terminal_error) for x in work] == [(0, None)] * 3


async def test_a_locked_row_spends_no_attempt() -> None:
    at = Harness()
    (arrival,) = arrivals(1)
    for _ in range(50):
        at.store.refusals = [RowLocked("x")]
        await at.attempt([arrival])
    assert (arrival.attempts, arrival.terminal_error, at.ended) == (0, None, [])
    assert all(delay_s > 0 for _, delay_s in at.back)
    assert at.database.is_up


async def test_one_bad_row_of_500_is_found_and_the_other_499_are_stored() -> None:
    at = Harness()
    at.store.bad = {"137"}
    work = arrivals(500)
    await at.attempt(work)
    assert len(at.store.stored) == len(at.ended) == 499
    assert at.back == [(["137"], LIMITS.event_retry_delay_s)]
    assert {x.attempts for x in work} == {1}


async def test_an_event_becomes_a_dead_letter_with_its_error_after_the_last_attempt() -> None:
    app = App()

    @app.on("order")
    async def fail(event: object, tx: Transaction) -> None:
        raise ValueError("no")

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    for _ in range(3):
        await at.attempt([arrival])
    assert at.reported(ProcessingFailed) == [2, 1, 0]
    assert [delay_s for _, delay_s in at.back] == [2.0, 2.0, 0.0]
    assert (at.ended, at.store.dead_lettered) == ([], [])
    await at.attempt([arrival])
    ((dead_lettered, cause),) = at.store.dead_lettered
    assert (dead_lettered, str(cause), arrival.attempts, at.ended) == ("1", "no", 3, ["1"])


async def test_a_dead_letter_that_cannot_be_inserted_waits_and_its_handler_does_not_run_again() -> None:
    runs: list[int] = []
    app = App()

    @app.on("order")
    async def give_up(event: object, tx: Transaction) -> None:
        runs.append(1)
        raise Reject("out of stock")

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    await at.attempt([arrival])
    at.store.refusals = [Unavailable("x")] * 3
    await at.attempt([arrival])
    assert (at.ended, arrival.attempts) == ([], 1)
    await at.attempt([arrival])
    assert (at.ended, arrival.attempts, len(runs)) == (["1"], 1, 1)


async def test_cancelling_an_attempt_decides_nothing_about_its_events() -> None:
    app = App()

    @app.on("order")
    async def hang(event: object, tx: Transaction) -> None:
        await asyncio.Event().wait()

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await at.attempt([arrival])
    assert (at.ended, at.back, arrival.terminal_error) == ([], [], None)


async def test_a_quarantined_event_is_recorded_in_postgresql_while_it_runs() -> None:
    at = Harness(handling_order())
    await at.attempt(arrivals(1, type="order", takeovers=2))
    assert (at.crash_log.reported, at.ended) == ([("1", True), ("1", False)], ["1"])
    assert [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, Quarantined)] == [
        Quarantined("1", 2)
    ]


async def test_an_event_without_handlers_is_never_quarantined() -> None:
    at = Harness(handling_order())
    await at.attempt(arrivals(3, takeovers=2))
    assert (at.crash_log.reported, at.ended) == ([], ["1", "2", "3"])


async def test_an_event_over_the_crash_limit_becomes_a_dead_letter_without_an_attempt() -> None:
    at = Harness(handling_order())
    at.crash_log.count = LIMITS.crashes_per_event_max
    (event,) = arrivals(1, type="order", takeovers=2)
    await at.attempt([event])
    assert isinstance(event.terminal_error, CrashLoop)
    assert (at.ended, event.attempts) == (["1"], 0)


async def test_a_quarantined_event_waits_without_an_attempt_while_it_cannot_be_recorded() -> None:
    at = Harness(handling_order())
    at.crash_log.refusals = [Unavailable("x")]
    (event,) = arrivals(1, type="order", takeovers=2)
    await at.attempt([event])
    assert (at.ended, at.back, event.attempts, at.database.is_up) == ([], [(["1"], 0.0)], 0, False)


def handling_order() -> App:
    app = App()

    @app.on("order")
    async def handle(event: Event) -> None: ...

    return app


async def test_a_failing_batch_is_halved_until_only_the_bad_event_spends_an_attempt() -> None:
    app, calls = App(), []

    @app.on_batch("order")
    async def count(events: list[Event]) -> None:
        calls.append(len(events))
        if any(event.id == "37" for event in events):
            raise ValueError("37")

    at = Harness(app)
    work = arrivals(64, type="order")
    await at.attempt(work)
    assert len(at.ended) == 63
    assert at.back == [(["37"], LIMITS.event_retry_delay_s)]
    assert {arrival.attempts for arrival in work} == {1}
    assert len(calls) == 1 + 2 * 6


async def test_events_that_share_a_transaction_run_alone_again_if_one_fails() -> None:
    app, calls = App(), []

    @app.on("order", share_transaction=True)
    async def count(event: Event) -> None:
        calls.append(event.id)
        if event.id == "2":
            raise Reject("no")

    at = Harness(app)
    await at.attempt(arrivals(3, type="order"))
    assert calls == ["1", "2", "1", "2", "3"]
    assert (at.ended, at.back) == (["1", "3"], [(["2"], 0.0)])


async def test_events_of_a_deadlock_are_retried_one_by_one_at_once_without_spending_attempts() -> None:
    app = App()

    @app.on("order", share_transaction=True)
    async def count(event: Event) -> None: ...

    at = Harness(app)
    at.store.refusals = [TransactionConflict("deadlock detected")]
    work = arrivals(3, type="order")
    await at.attempt(work)
    assert (at.ended, at.back, {arrival.attempts for arrival in work}) == (["1", "2", "3"], [], {1})
    assert at.reported(InsertFailed) == []


def waiting(kind: str, waits: Callable[[list[Event]], bool]) -> App:
    """A batch or shared handler of `order` that runs into a lock timeout where `waits` says so."""
    app = App()

    async def of_batch(events: list[Event]) -> None:
        if waits(events):
            raise LockTimeout("canceling statement due to lock timeout")

    async def of_one(event: Event) -> None:
        await of_batch([event])

    if kind == "batch":
        app.on_batch("order")(of_batch)
    else:
        app.on("order", share_transaction=True)(of_one)
    return app


@pytest.mark.parametrize("kind", ["batch", "shared"])
async def test_a_batch_with_a_lock_timeout_is_halved_until_only_the_locked_event_waits(kind: str) -> None:
    app = waiting(kind, lambda events: any(event.id == "2" for event in events))
    at = Harness(app)
    work = arrivals(5, type="order")
    await at.attempt(work)
    assert sorted(at.ended) == ["1", "3", "4", "5"]
    ((ids, delay_s),) = at.back
    assert (ids, delay_s > 0) == (["2"], True)
    assert [(x.attempts, x.lock_timeout) for x in work if x.id == "2"] == [(0, True)]


@pytest.mark.parametrize("kind", ["batch", "shared"])
async def test_under_a_table_lock_a_batch_is_not_retried_one_by_one(kind: str) -> None:
    calls: list[int] = []

    def count(events: Sequence[Event]) -> bool:
        calls.append(len(events))
        return True

    app = waiting(kind, count)
    at = Harness(app)
    work = arrivals(100, type="order")
    await at.attempt(work)
    assert len(calls) == LOCK_TIMEOUTS_MAX + 1
    assert sorted(int(id_) for ids, _ in at.back for id_ in ids) == list(range(1, 101))
    assert all(delay_s > 0 for _, delay_s in at.back)
    assert {x.attempts for x in work} == {0}


async def test_a_row_locked_by_another_listener_does_not_split_a_batch() -> None:
    app = App()

    @app.on_batch("order")
    async def count(events: list[Event]) -> None: ...

    at = Harness(app)
    at.store.refusals = [RowLocked("x")]
    await at.attempt(arrivals(3, type="order"))
    ((ids, delay_s),) = at.back
    assert (ids, delay_s > 0) == (["1", "2", "3"], True)


async def test_an_event_that_can_never_be_stored_is_dead_after_its_first_attempt_and_its_neighbours_are_stored() -> (
    None
):
    at = Harness()
    at.store.never = {"2"}
    work = arrivals(3)
    await at.attempt(work)
    assert at.store.stored == ["1", "3"]
    assert at.back == [(["2"], 0.0)]
    await at.attempt([work[1]])
    assert [(id_, type(cause)) for id_, cause in at.store.dead_lettered] == [("2", Unstorable)]
    assert work[1].attempts == 1


async def test_an_event_that_spends_an_attempt_leaves_the_queue_for_lock_timeouts() -> None:
    at = Harness()
    (arrival,) = arrivals(1)
    at.store.refusals = [RowLocked("x"), DataRefused("x")]
    await at.attempt([arrival])
    assert arrival.lock_timeout
    await at.attempt([arrival])
    assert (arrival.lock_timeout, arrival.attempts) == (False, 1)


async def test_an_event_that_deadlocks_alone_is_requeued_without_a_pause() -> None:
    at = Harness()
    (arrival,) = arrivals(1)
    at.store.refusals = [TransactionConflict("deadlock detected")] * 3
    await at.attempt([arrival])
    assert (arrival.attempts, at.database.is_up, at.pauses) == (0, True, 0)
    ((_, delay_s),) = at.back
    assert delay_s > 0


@pytest.mark.parametrize(("after", "delay_s"), [("30s", 30.0), ("1h", 300.0), (0.5, 0.5)])
async def test_a_handler_may_say_when_to_try_again_within_bounds(after: str | float, delay_s: float) -> None:
    app = App()

    @app.on("order")
    async def wait(event: Event) -> None:
        raise Retry(after=after)

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    await at.attempt([arrival])
    assert (at.back, arrival.attempts) == ([(["1"], delay_s)], 1)


async def test_a_retry_is_an_attempt_and_the_last_one_ends_the_event() -> None:
    app = App()

    @app.on("order")
    async def wait(event: Event) -> None:
        raise Retry("sold out", after="30s")

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    for _ in range(3):
        await at.attempt([arrival])
    assert [delay for _, delay in at.back] == [30.0, 30.0, 0.0]
    assert isinstance(arrival.terminal_error, Retry)


async def test_emitted_events_are_reported_after_the_commit() -> None:
    app = App()

    @app.on("order")
    async def emit(event: Event) -> None:
        event.emit(Event.new("next"))
        if event.id == "1":
            raise ValueError("no")

    at = Harness(app)
    first, second = arrivals(2, type="order")
    await at.attempt([first])
    assert at.wakes == 0
    await at.attempt([second])
    assert at.wakes == 1


async def test_an_event_that_is_not_next_is_requeued_and_spends_no_attempt() -> None:
    app = App()

    @app.on("order", ordered_by="subject")
    async def count(event: Event) -> None: ...

    at = Harness(app)
    (arrival,) = arrivals(1, type="order")
    at.store.refusals = [NotNext("not yet")]
    await at.attempt([arrival])
    assert (len(at.back), arrival.attempts) == (1, 0)


async def test_no_more_handlers_run_at_a_time_than_are_allowed() -> None:
    app, running, most = App(), 0, 0

    @app.on("order")
    async def count(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    at = Harness(app)
    async with asyncio.TaskGroup() as group:
        for arrival in arrivals(30, type="order"):
            group.create_task(at.attempt([arrival]))
    assert most == LIMITS.handler_concurrency
