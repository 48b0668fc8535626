"""Failed attempts are counted where the count outlives the process, and what is learned there decides."""

from __future__ import annotations

import pytest

from oncecast.app.application import App
from oncecast.core.errors import AttemptsSpent, Reject, Retry, RowLocked, TransactionConflict, Unavailable
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts
from oncecast.core.telemetry import ProcessingFailed
from oncecast.core.transaction import Transaction
from oncecast.event import Event
from tests.support.arrivals import arrivals
from tests.unit.listener.pipeline.test_attempt import LIMITS, Harness


def failing_with(error: Exception | None) -> tuple[Harness, Arrival]:
    app = App()

    @app.on("order")
    async def handle(event: Event, tx: Transaction) -> None:
        if error is not None:
            raise error

    (arrival,) = arrivals(1, type="order")
    return Harness(app), arrival


async def test_an_event_that_succeeds_costs_no_count() -> None:
    at, arrival = failing_with(None)
    await at.attempt([arrival])
    assert (at.ended, at.store.counted) == (["1"], [])


async def test_a_failed_attempt_is_counted_with_its_error_and_when_the_next_is_due() -> None:
    at, arrival = failing_with(Retry("later", after=7))
    await at.attempt([arrival])
    (failure,) = at.store.counted
    assert (failure.arrival.id, failure.error, failure.next_in_s) == ("1", "Retry: later", 7.0)
    assert at.back == [(["1"], 7.0)]


async def test_the_count_over_all_processes_determines_the_last_attempt() -> None:
    at, arrival = failing_with(ValueError("no"))
    at.store.counts = [3]
    await at.attempt([arrival])
    assert at.reported(ProcessingFailed) == [0]
    await at.attempt([arrival])
    assert [(id_, str(cause)) for id_, cause in at.store.dead_lettered] == [("1", "no")]
    assert arrival.attempts == 3


async def test_an_event_that_failed_elsewhere_is_requeued_when_due_with_its_count() -> None:
    at, arrival = failing_with(ValueError("no"))
    arrival.range.leased = True
    at.store.earlier = [EarlierAttempts(1, 240.0, "ValueError: no")]
    await at.attempt([arrival])
    assert (at.back, at.store.counted, at.telemetry_events[1:]) == ([(["1"], 240.0)], [], [])
    await at.attempt([arrival])
    assert [failure.arrival.attempts for failure in at.store.counted] == [2]
    assert at.reported(ProcessingFailed) == [1]


async def test_no_schedule_of_another_process_lasts_longer_than_a_handler_could_ask_for() -> None:
    at, arrival = failing_with(None)
    arrival.range.leased = True
    at.store.earlier = [EarlierAttempts(1, 1e9, "ValueError: no")]
    await at.attempt([arrival])
    assert at.back == [(["1"], LIMITS.retry_after_max_s)]


async def test_an_event_whose_last_attempt_failed_elsewhere_is_dead_without_another() -> None:
    at, arrival = failing_with(None)
    at.store.earlier = [EarlierAttempts(3, 0.0, "KeyError: 'sku'")]
    await at.attempt([arrival])
    await at.attempt([arrival])
    ((id_, cause),) = at.store.dead_lettered
    assert (id_, type(cause), str(cause)) == ("1", AttemptsSpent, "KeyError: 'sku'")
    assert (arrival.attempts, at.ended) == (3, ["1"])


async def test_a_reject_is_not_counted() -> None:
    at, arrival = failing_with(Reject("sold out"))
    await at.attempt([arrival])
    assert at.store.counted == []
    assert isinstance(arrival.terminal_error, Reject)


@pytest.mark.parametrize("trouble", [Unavailable("x"), TransactionConflict("x")])
async def test_a_count_that_the_database_cannot_take_is_written_once_it_is_back(trouble: Exception) -> None:
    at, arrival = failing_with(ValueError("no"))
    at.store.counts = [trouble, trouble, 1]
    await at.attempt([arrival])
    assert len({failure.name for failure in at.store.counted}) == 1
    assert (len(at.store.counted), arrival.attempts) == (3, 1)


async def test_where_another_listener_attempts_the_event_the_count_in_memory_goes_on() -> None:
    at, arrival = failing_with(ValueError("no"))
    for number in (1, 2, 3):
        at.store.counts = [RowLocked("x")]
        await at.attempt([arrival])
        assert arrival.attempts == number
    assert at.reported(ProcessingFailed) == [2, 1, 0]
