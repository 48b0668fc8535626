"""What every event store does for handlers: together or none, each in its turn, and what they emit with their row."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import psycopg
import pytest

from oncecast.core.errors import (
    AttemptFailed,
    EmissionRefused,
    NotNext,
    Reject,
    RowLocked,
    TransactionClosed,
    Unavailable,
)
from oncecast.core.event import Arrival, Cursor, Turn
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import Publish, WorkTogether
from oncecast.core.transaction import OpenTransaction
from tests.support.arrivals import track
from tests.support.event_stores import Server
from tests.support.places import arrival
from tests.support.savepoints import beside_a_savepoint_that_is_rolled_back


def counting(server: Server, failing: str | None = None) -> WorkTogether:
    """One effect for each, until one fails."""

    async def work(tx: OpenTransaction, new: Sequence[Arrival]) -> None:
        for event in new:
            if event.id == failing:
                raise ValueError(failing)
            await server.effect(tx, event.id)

    return work


async def test_what_is_together_commits_together_and_only_what_is_new_is_worked_on(server: Server) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "there")])
    batch = [arrival(1, "there"), arrival(2, "new"), arrival(3, "there"), arrival(4, "too")]
    batch[2].id, batch[2].raw = "there", batch[0].raw
    outcomes = await store.process_together(batch[:2] + batch[3:], counting(server))
    assert outcomes == [Outcome.PRESENT, Outcome.STORED, Outcome.STORED]
    assert await server.effects() == {"new": 1, "too": 1}
    assert await store.process_together(batch[2:3], counting(server)) == [Outcome.DUPLICATE]


async def test_of_what_is_together_nothing_stays_when_the_handler_fails(server: Server) -> None:
    store, _ = await server.of("a")
    with pytest.raises(ValueError, match="2"):
        await store.process_together([arrival(1, "1"), arrival(2, "2")], counting(server, failing="2"))
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_conflict_among_what_is_together_is_kept_and_the_others_are_stored(server: Server) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "x")])
    batch = [arrival(2, "x", {"other": True}), arrival(3, "y")]
    assert await store.process_together(batch, counting(server)) == [Outcome.CONFLICT, Outcome.STORED]
    assert await server.conflicts() == [("x", 2)]
    assert await server.effects() == {"y": 1}


# --- turns --------------------------------------------------------------------------------------------------


def in_turn(offset: int, id: str, after: str | None, key: str = "k") -> Arrival:
    """At `offset`, right behind `after`."""
    found, before = arrival(offset, id), None
    if after is not None:
        before = Turn(key, found.source, after, found.epoch, offset - 1, track())
    found.turn = Turn(key, found.source, id, found.epoch, offset, track(), before)
    return found


async def test_an_event_whose_predecessor_has_no_row_is_out_of_turn_and_leaves_nothing(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        await server.effect(tx, "effect")

    with pytest.raises(NotNext):
        await store.process(in_turn(2, "second", "first"), work)
    assert (await server.statuses(), await server.effects()) == ({}, {})
    assert await store.process(in_turn(1, "first", None), work) is Outcome.STORED
    assert await store.process(in_turn(2, "second", "first"), work) is Outcome.STORED


async def test_a_dead_predecessor_has_a_row_too(server: Server) -> None:
    store, _ = await server.of("a")
    await store.dead_letter(in_turn(1, "first", None), ValueError("no"))

    async def work(tx: OpenTransaction) -> None:
        await server.effect(tx, "effect")

    assert await store.process(in_turn(2, "second", "first"), work) is Outcome.STORED


async def test_an_ordered_event_becomes_a_dead_letter_only_in_its_turn(server: Server) -> None:
    """What comes after it would be let through by its row."""
    store, _ = await server.of("a")
    second = in_turn(2, "second", "first")
    with pytest.raises(NotNext):
        await store.dead_letter(second, ValueError("no"))
    assert await server.statuses() == {}
    await store.dead_letter(in_turn(1, "first", None), ValueError("no"))
    assert (await store.dead_letter(second, ValueError("no"))).outcome is Outcome.STORED


async def test_a_predecessor_whose_row_came_by_another_place_says_nothing_about_what_stands_between(
    server: Server,
) -> None:
    """It was published again. PostgreSQL may have lost the row of what stands between, and kept that."""
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        await server.effect(tx, "effect")

    first, between, again, last = (in_turn(n + 1, id_, None) for n, id_ in enumerate(["a", "b", "a", "c"]))
    for before, after in ((first, between), (between, again), (again, last)):
        assert after.turn is not None
        after.turn.before = before.turn
    assert await store.process(first, work) is Outcome.STORED
    with pytest.raises(NotNext):
        await store.process(last, work)
    assert await store.process(between, work) is Outcome.STORED
    assert await store.process(last, work) is Outcome.STORED


async def test_a_predecessor_that_a_cursor_was_saved_over_needs_no_row_any_more(server: Server) -> None:
    """It may have been pruned since."""
    store, _ = await server.of("a")
    second = in_turn(2, "second", "first")

    async def work(tx: OpenTransaction) -> None:
        await server.effect(tx, "effect")

    with pytest.raises(NotNext):
        await store.process(second, work)
    assert second.turn is not None
    assert second.turn.before is not None
    second.turn.before.track.saved = Cursor("e1", 1)
    assert await store.process(second, work) is Outcome.STORED


async def test_while_one_of_a_key_is_under_way_no_other_of_it_begins_and_other_keys_do(server: Server) -> None:
    a, _ = await server.of("a")
    b, _ = await server.of("b")
    began, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: OpenTransaction) -> None:
        began.set()
        await let_go.wait()

    async def nothing(tx: OpenTransaction) -> None:
        await server.effect(tx, "effect")

    async with asyncio.TaskGroup() as group:
        first = group.create_task(a.process(in_turn(1, "first", None), hold))
        await began.wait()
        with pytest.raises(NotNext):
            await b.process(in_turn(1, "of another journal", None), nothing)
        with pytest.raises(RowLocked):
            await b.process(in_turn(2, "second", "first"), nothing)
        assert await b.process(in_turn(3, "other", None, key="other"), nothing) is Outcome.STORED
        let_go.set()
    assert first.result() is Outcome.STORED
    assert await b.process(in_turn(2, "second", "first"), nothing) is Outcome.STORED


async def test_a_dead_letter_that_is_replayed_waits_while_another_of_its_key_is_under_way(server: Server) -> None:
    a, _ = await server.of("a")
    b, dead_letters = await server.of("b")
    dead_lettered = in_turn(1, "dead", None)
    await b.dead_letter(dead_lettered, ValueError("no"))
    began, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: OpenTransaction) -> None:
        began.set()
        await let_go.wait()

    async def replay(_arrival: Arrival, tx: OpenTransaction) -> None:
        await tx.take("k")

    async with asyncio.TaskGroup() as group:
        live = group.create_task(a.process(in_turn(2, "live", "dead"), hold))
        await began.wait()
        with pytest.raises(NotNext):
            await dead_letters.replay(dead_lettered.source, "dead", replay)
        let_go.set()
    assert live.result() is Outcome.STORED
    assert await dead_letters.replay(dead_lettered.source, "dead", replay)


# --- emissions ----------------------------------------------------------------------------------------------


def emitting(*events: bytes) -> WorkTogether:
    async def work(tx: OpenTransaction, _new: Sequence[Arrival]) -> None:
        tx.emitted.extend(events)

    return work


async def relay(server: Server, publish: Publish, limit: int = 9, token: str = "a") -> int:
    """With bounds of bytes and time that it does not come near."""
    return await server.outboxes[token].relay(publish, limit=limit, max_bytes=2**20, within_s=30.0)


class Producer:
    """Accepts publications, or raises a given error."""

    def __init__(self) -> None:
        self.has: list[bytes] = []
        self.errors: list[Exception] = []

    async def publish(self, events: Sequence[bytes]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.has.extend(events)


async def test_emitted_events_are_relayed_in_order_and_once(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()
    await store.process_together([arrival(1, "1")], emitting(b"1", b"2"))
    await store.process_together([arrival(2, "2")], emitting(b"3"))
    assert await relay(server, producer.publish, limit=2) == 2
    assert await relay(server, producer.publish, limit=2) == 1
    assert await relay(server, producer.publish, limit=2) == 0
    assert producer.has == [b"1", b"2", b"3"]


async def test_a_relay_takes_no_more_bytes_than_it_may_but_always_one_event(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()
    sizes = (40, 60, 1, 300, 100)
    await store.process_together([arrival(1, "1")], emitting(*(b"x" * size for size in sizes)))
    relayed = [
        await server.outboxes["a"].relay(producer.publish, limit=9, max_bytes=100, within_s=30.0) for _ in range(5)
    ]
    assert relayed == [2, 1, 1, 1, 0]
    assert [len(event) for event in producer.has] == list(sizes)


async def test_a_producer_may_take_longer_than_a_handler_may_and_the_relay_holds_its_transaction(
    server: Server,
) -> None:
    store, _ = await server.of("a", idle_in_transaction_s=0.2)
    await store.process_together([arrival(1, "1")], emitting(b"1"))

    async def slowly(_events: Sequence[bytes]) -> None:
        await asyncio.sleep(0.6)

    assert await server.outboxes["a"].relay(slowly, limit=9, max_bytes=100, within_s=30.0) == 1


async def test_the_emitted_events_of_a_failed_attempt_are_never_relayed(server: Server) -> None:
    store, _ = await server.of("a")

    async def fail(tx: OpenTransaction, _new: Sequence[Arrival]) -> None:
        tx.emitted.append(b"1")
        raise ValueError("on request")

    with pytest.raises(ValueError, match="on request"):
        await store.process_together([arrival(1, "1")], fail)
    assert await relay(server, Producer().publish) == 0


async def test_a_savepoint_that_is_rolled_back_takes_its_emissions_with_it(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()

    async def work(tx: OpenTransaction) -> None:
        tx.emitted.append(b"1")
        with pytest.raises(ValueError, match="inner"):
            async with tx.savepoint():
                tx.emitted.append(b"2")
                raise ValueError("inner")
        async with tx.savepoint():
            tx.emitted.append(b"3")

    assert await store.process(arrival(1, "1"), work) is Outcome.STORED
    await relay(server, producer.publish)
    assert producer.has == [b"1", b"3"]


async def test_a_handler_that_swallows_an_sql_error_and_emits_an_event_fails_its_attempt(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        with pytest.raises((psycopg.Error, SyntaxError)):
            await tx.execute("this is no statement")
        tx.emitted.append(b"1")

    with pytest.raises(AttemptFailed, match="swallowed"):
        await store.process(arrival(1, "1"), work)
    assert await relay(server, Producer().publish) == 0


async def test_nothing_can_be_emitted_after_the_attempt(server: Server) -> None:
    store, _ = await server.of("a")
    kept: list[OpenTransaction] = []

    async def work(tx: OpenTransaction) -> None:
        kept.append(tx)

    await store.process(arrival(1, "1"), work)
    with pytest.raises(TransactionClosed):
        kept[0].emitted.append(b"1")


async def test_what_was_not_acknowledged_is_published_again(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()
    producer.errors = [Unavailable("no answer")]
    await store.process_together([arrival(1, "1")], emitting(b"1"))
    with pytest.raises(Unavailable):
        await relay(server, producer.publish)
    assert await relay(server, producer.publish) == 1


async def test_a_refused_event_is_set_aside_and_delays_no_other(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()
    producer.errors = [EmissionRefused("too large", 1)]
    await store.process_together([arrival(1, "1")], emitting(b"1", b"2", b"3"))
    with pytest.raises(EmissionRefused):
        await relay(server, producer.publish)
    assert await relay(server, producer.publish) == 2
    assert producer.has == [b"1", b"3"]
    assert await server.refused() == ["too large"]


async def test_an_event_that_was_refused_is_published_once_an_operator_has_it_offered_again(server: Server) -> None:
    store, _ = await server.of("a")
    producer = Producer()
    producer.errors = [EmissionRefused("too large", 0)]
    await store.process_together([arrival(1, "1")], emitting(b"1"))
    with pytest.raises(EmissionRefused):
        await relay(server, producer.publish)
    assert await relay(server, producer.publish) == 0
    await server.offer_refused_again()
    assert await relay(server, producer.publish) == 1
    assert producer.has == [b"1"]


async def test_one_listener_relays_at_a_time(server: Server) -> None:
    store, _ = await server.of("a")
    await server.of("b")
    began, let_go = asyncio.Event(), asyncio.Event()
    await store.process_together([arrival(1, "1")], emitting(b"1"))

    async def slowly(_events: Sequence[bytes]) -> None:
        began.set()
        await let_go.wait()

    async with asyncio.TaskGroup() as group:
        relaying = group.create_task(relay(server, slowly))
        await began.wait()
        assert await relay(server, Producer().publish, token="b") == 0
        let_go.set()
    assert relaying.result() == 1


async def test_a_replay_relays_the_events_that_its_handlers_emit(server: Server) -> None:
    store, dead_letters = await server.of("a")
    producer = Producer()
    dead_lettered = arrival(1, "1")
    await store.dead_letter(dead_lettered, ValueError("no"))

    async def work(_arrival: Arrival, tx: OpenTransaction) -> None:
        tx.emitted.append(b"1")

    assert await dead_letters.replay(dead_lettered.source, "1", work)
    await relay(server, producer.publish)
    assert producer.has == [b"1"]


# --- what a handler's errors come to -------------------------------------------------------------------------


async def test_a_savepoint_that_is_cancelled_is_rolled_back_and_the_rest_commits(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as deadline, tx.savepoint():
                await server.effect(tx, "half")
                deadline.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()
        await server.effect(tx, "whole")

    assert await store.process(arrival(1, "x"), work) is Outcome.STORED
    assert await server.effects() == {"whole": 1}


@pytest.mark.parametrize("how", ["statement", "savepoint", "emission"])
async def test_a_savepoint_that_takes_back_what_another_task_did_meanwhile_fails_the_attempt(
    server: Server, how: str
) -> None:
    """The event would be stored without it, and nothing would say so."""
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        async def write() -> None:
            if how == "emission":
                tx.emitted.append(b"{}")
                return
            async with tx.savepoint() if how == "savepoint" else contextlib.nullcontext():
                await server.effect(tx, "its")

        await beside_a_savepoint_that_is_rolled_back(tx, write)

    with pytest.raises(AttemptFailed, match="another task"):
        await store.process(arrival(1, "x"), work)
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_savepoint_that_a_task_is_still_in_when_its_handler_returns_fails_the_attempt(server: Server) -> None:
    """Its end is not to be known, and its block may have been to be rolled back."""
    store, _ = await server.of("a")
    forgotten = []

    async def work(tx: OpenTransaction) -> None:
        opened = asyncio.Event()

        async def goes_on() -> None:
            async with tx.savepoint():
                await server.effect(tx, "half")
                opened.set()
                await asyncio.Event().wait()

        forgotten.append(asyncio.create_task(goes_on()))
        await opened.wait()

    with pytest.raises(AttemptFailed, match="still open"):
        await store.process(arrival(1, "x"), work)
    for task in forgotten:
        task.cancel()
    await asyncio.wait(forgotten)
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_savepoint_takes_back_what_tasks_did_that_were_begun_in_its_block(
    server: Server,
) -> None:
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        with contextlib.suppress(ValueError):
            async with tx.savepoint():
                async with asyncio.TaskGroup() as group:
                    group.create_task(server.effect(tx, "a"))
                    group.create_task(server.effect(tx, "b"))
                async with tx.savepoint():
                    await server.effect(tx, "c")
                raise ValueError
        await server.effect(tx, "d")

    assert await store.process(arrival(1, "x"), work) is Outcome.STORED
    assert await server.effects() == {"d": 1}


@pytest.mark.parametrize("error", [Unavailable("another system"), RowLocked("another system's row")])
async def test_that_another_system_is_away_or_busy_is_an_error_of_the_handler(
    server: Server, error: Exception
) -> None:
    store, _ = await server.of("a")

    async def work(tx: OpenTransaction) -> None:
        raise error

    with pytest.raises(AttemptFailed, match="another system"):
        await store.process(arrival(1, "x"), work)


async def test_a_group_of_errors_comes_to_the_one_that_counts(server: Server) -> None:
    store, _ = await server.of("a")

    async def reject(tx: OpenTransaction) -> None:
        raise ExceptionGroup("of a TaskGroup", [ValueError("too"), ExceptionGroup("in it", [Reject("never")])])

    async def fail(tx: OpenTransaction) -> None:
        raise ExceptionGroup("of a TaskGroup", [ValueError("only")])

    with pytest.raises(Reject, match="never"):
        await store.process(arrival(1, "x"), reject)
    with pytest.raises(ValueError, match="only"):
        await store.process(arrival(1, "x"), fail)


async def test_an_attempt_that_is_cancelled_while_it_waits_for_a_row_leaves_no_lock(server: Server) -> None:
    a, _ = await server.of("a")
    b, _ = await server.of("b")
    began, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: OpenTransaction) -> None:
        began.set()
        await let_go.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(a.process(arrival(2, "2"), hold))
        await began.wait()
        waiting = group.create_task(b.process_together([arrival(1, "1"), arrival(2, "2")], counting(server)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):  # it has the first row by then, and waits for the second
                await asyncio.shield(waiting)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await a.insert([arrival(1, "1")]) == [Outcome.STORED]
        let_go.set()
