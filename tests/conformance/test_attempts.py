"""What every event store knows of failed attempts: their count and schedule outlive the process that made them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from oncecast.core.attempts import CountedFailures, FailedAttempt, count_failure, earlier_attempts
from oncecast.core.errors import AttemptsSpent, RowLocked
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.transaction import OpenTransaction, Transaction
from tests.support.event_stores import Server
from tests.support.places import arrival


def failed(found: Arrival, name: str = "f1", delay_s: float = 0.0) -> FailedAttempt:
    return FailedAttempt(name, found, "ValueError: no", delay_s)


def numbered(number: int, offset: int = 1, id: str = "x") -> Arrival:
    found = arrival(offset, id)
    found.attempts = number
    return found


async def nothing(_tx: Transaction) -> None:
    """A handler that succeeds."""


async def nothing_together(_tx: OpenTransaction, _new: Sequence[Arrival]) -> None:
    """A handler of batches that succeeds."""


async def never(_tx: Transaction) -> None:
    raise AssertionError("no attempt may begin")


async def test_another_process_learns_of_failed_attempts_and_begins_none_of_its_own(server: Server) -> None:
    (store, _), (other, _) = await server.of("a"), await server.of("b")
    assert await store.count_failure(failed(numbered(1), delay_s=30.0)) == 1
    earlier = await other.process(numbered(1), never)
    assert isinstance(earlier, EarlierAttempts)
    assert (earlier.attempts, earlier.error) == (1, "ValueError: no")
    assert 25 < earlier.due_in_s <= 30


async def test_the_next_attempt_begins_where_the_earlier_ones_are_known_and_the_row_has_their_count(
    server: Server,
) -> None:
    store, _ = await server.of("a")
    await store.count_failure(failed(numbered(1)))
    assert await store.process(numbered(2), nothing) is Outcome.STORED
    assert await server.attempts() == {"x": 2}
    assert await server.failures() == {}


async def test_a_failed_attempt_keeps_the_count_that_its_transaction_would_have_ended(server: Server) -> None:
    store, _ = await server.of("a")
    await store.count_failure(failed(numbered(1)))

    async def fail(_tx: Transaction) -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        await store.process(numbered(2), fail)
    assert await store.count_failure(failed(numbered(2), "f2")) == 2


async def test_a_failure_that_is_written_again_counts_once(server: Server) -> None:
    store, _ = await server.of("a")
    for _ in range(3):
        assert await store.count_failure(failed(numbered(1))) == 1
    assert await store.count_failure(failed(numbered(1), "f2")) == 2


async def test_failures_that_were_never_written_are_made_up_for_by_the_next(server: Server) -> None:
    store, _ = await server.of("a")
    assert await store.count_failure(failed(numbered(3), "f3")) == 3


async def test_nothing_is_counted_for_an_event_that_has_ended(server: Server) -> None:
    store, _ = await server.of("a")
    await store.process(numbered(1), nothing)
    await store.count_failure(failed(numbered(1)))
    assert await server.failures() == {}


async def test_of_a_batch_only_the_event_that_has_failed_before_stays_out(server: Server) -> None:
    store, _ = await server.of("a")
    await store.count_failure(failed(numbered(1)))
    batch = [arrival(2, "y"), numbered(1), arrival(3, "z")]
    first, earlier, last = await store.insert(batch)
    assert (first, last) == (Outcome.STORED, Outcome.STORED)
    assert isinstance(earlier, EarlierAttempts)
    assert set(await server.statuses()) == {"y", "z"}


async def test_of_what_is_together_only_the_event_that_has_failed_before_stays_out(server: Server) -> None:
    store, _ = await server.of("a")
    await store.count_failure(failed(numbered(1)))
    first, earlier = await store.process_together([arrival(2, "y"), numbered(1)], nothing_together)
    assert first is Outcome.STORED
    assert isinstance(earlier, EarlierAttempts)
    assert set(await server.statuses()) == {"y"}


async def test_a_dead_event_tells_every_attempt_that_any_process_made(server: Server) -> None:
    store, _ = await server.of("a")
    for name in ("f1", "f2", "f3"):
        await store.count_failure(failed(numbered(1), name))
    assert (await store.dead_letter(numbered(0), AttemptsSpent("ValueError: no"))).outcome is Outcome.STORED
    assert await server.attempts() == {"x": 3}
    assert [(dead_letter.error, dead_letter.attempts) for dead_letter in await store.unlogged(10)] == [
        ("ValueError: no", 3)
    ]
    assert await server.failures() == {}


async def test_a_failure_waits_for_an_attempt_of_another_process_and_says_so(server: Server) -> None:
    (store, _), (other, _) = await server.of("a"), await server.of("b")
    await store.count_failure(failed(numbered(1)))
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_tx: Transaction) -> None:
        begun.set()
        await go.wait()

    attempt = asyncio.create_task(other.process(numbered(2), wait))
    await begun.wait()
    with pytest.raises(RowLocked):
        await store.count_failure(failed(numbered(2), "f2"))
    go.set()
    assert await attempt is Outcome.STORED


async def test_an_attempt_that_waited_for_another_of_a_failing_event_does_not_begin_before_that_is_counted(
    server: Server,
) -> None:
    (store, _), (other, _) = await server.of("a"), await server.of("b")
    await store.count_failure(failed(numbered(1)))
    begun = asyncio.Event()

    async def fail(_tx: Transaction) -> None:
        begun.set()
        await asyncio.sleep(0.15)  # shorter than anybody waits for a lock
        raise KeyError("no")

    attempt = asyncio.create_task(store.process(numbered(2), fail))
    await begun.wait()
    with pytest.raises(RowLocked):
        await other.process(numbered(2), never)
    with pytest.raises(KeyError):
        await attempt


async def test_a_failure_whose_answer_was_lost_counts_once_although_another_came_in_between(server: Server) -> None:
    (store, _), (other, _) = await server.of("a"), await server.of("b")
    assert await store.count_failure(failed(numbered(1), "f1")) == 1
    assert await other.count_failure(failed(numbered(1), "f2")) == 2
    assert await store.count_failure(failed(numbered(1), "f1")) == 2
    assert await other.count_failure(failed(numbered(2), "f3")) == 3


async def test_a_count_is_deleted_when_its_next_attempt_is_long_overdue_and_no_earlier(server: Server) -> None:
    store, _ = await server.of("a")
    for id, delay_s in {"given up": -100.0, "due": -10.0, "waits": 1000.0}.items():
        await store.count_failure(failed(numbered(1, id=id), delay_s=delay_s))
    assert await store.prune_attempts(overdue_s=50.0) == 1
    assert await server.failures() == {"due": 1, "waits": 1}
    assert await store.process(numbered(1, id="given up"), nothing) is Outcome.STORED


async def test_every_store_counts_as_the_core_does(server: Server) -> None:
    """PostgreSQL counts in one statement, which nothing else proves to be the same rule."""
    store, _ = await server.of("a")
    draw = random.Random(1)
    counted: CountedFailures | None = None
    for _ in range(60):
        failure = failed(numbered(draw.randint(1, 20)), f"f{draw.randint(1, 40)}", delay_s=1000.0)
        counted = count_failure(counted, failure, now_s=0.0)
        assert await store.count_failure(failure) == counted.attempts
        attempt = draw.randint(max(1, counted.attempts - 1), counted.attempts)
        [earlier] = await store.insert([numbered(attempt)])
        expected = earlier_attempts(counted, attempt, now_s=0.0)
        assert isinstance(earlier, EarlierAttempts)
        assert earlier._replace(due_in_s=0) == (expected and expected._replace(due_in_s=0))
