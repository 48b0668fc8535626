"""What every event store does about the promise: each event ends once, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import psycopg
import pytest

from oncecast.core.cursors import SavedCursor
from oncecast.core.errors import AttemptFailed, Reject, RowLocked, TransactionClosed, Unavailable
from oncecast.core.event import Cursor
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.ports import ListenerStore, Sessions
from oncecast.core.ranges import EndedRange
from oncecast.core.transaction import Transaction
from oncecast.core.wire import Epoch
from tests.support.event_stores import Server
from tests.support.places import EPOCHS, JOURNAL, arrival, record

Work = Callable[[Transaction], Awaitable[None]]


async def test_each_event_of_a_batch_is_stored_once_and_found_at_its_place_again(server: Server) -> None:
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 501)]
    assert await store.insert(batch) == [Outcome.STORED] * 500
    assert await store.insert(batch) == [Outcome.PRESENT] * 500
    assert len(await server.statuses()) == 500


async def test_the_same_identity_from_another_place_is_a_duplicate_or_a_conflict_that_is_kept(server: Server) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "a", {"x": 1.0}), arrival(2, "b")])
    again = [arrival(3, "a", {"x": 1}), arrival(4, "b", {"other": True}), arrival(5, "c")]
    assert await store.insert(again) == [Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.STORED]
    assert await store.insert(again) == [Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.PRESENT]
    assert await server.conflicts() == [("b", 4)]


async def test_row_and_effect_commit_together_and_only_once(server: Server) -> None:
    store, _ = await server.of("a")
    work = writing(server, "a")
    assert await store.process(arrival(1, "a"), work) is Outcome.STORED
    assert await store.process(arrival(1, "a"), work) is Outcome.PRESENT
    assert await store.process(arrival(2, "a"), work) is Outcome.CONFLICT
    assert (await server.statuses(), await server.effects()) == ({"a": "stored"}, {"a": 1})


def writing(server: Server, id: str, then: Callable[[], Awaitable[None]] | None = None) -> Work:
    """A handler that has one effect, and does something more before it returns."""

    async def work(tx: Transaction) -> None:
        await server.effect(tx, id)
        if then is not None:
            await then()

    return work


async def test_a_handler_that_raises_leaves_nothing_and_its_error_comes_out(server: Server) -> None:
    store, _ = await server.of("a")

    class Boom(Exception):
        pass

    async def fail() -> None:
        raise Boom

    for _ in range(2):
        with pytest.raises(Boom):
            await store.process(arrival(1, "a"), writing(server, "a", fail))
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_a_swallowed_error_of_a_statement_is_a_failed_attempt(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "a")
        with pytest.raises((psycopg.Error, SyntaxError)):
            await tx.execute("this is no statement")

    with pytest.raises(AttemptFailed, match="swallowed"):
        await store.process(arrival(1, "a"), work)
    assert (await server.statuses(), await server.effects()) == ({}, {})


async def test_after_an_error_nothing_runs_until_the_savepoint_around_it_is_over(server: Server) -> None:
    store, _ = await server.of("a")
    refused = []

    async def work(tx: Transaction) -> None:
        await server.effect(tx, "kept")
        with pytest.raises((psycopg.Error, SyntaxError)):
            async with tx.savepoint():
                await server.effect(tx, "lost")
                await tx.execute("this is no statement")
        await server.effect(tx, "kept, too")
        with pytest.raises((psycopg.Error, SyntaxError)):
            await tx.execute("this is no statement")
        for late in (server.effect(tx, "late"), enter(tx)):
            with pytest.raises((psycopg.errors.InFailedSqlTransaction, RuntimeError), match="aborted"):
                await late
            refused.append(late)

    async def enter(tx: Transaction) -> None:
        async with tx.savepoint():
            raise AssertionError("it cannot be entered")

    with pytest.raises(AttemptFailed, match="swallowed"):
        await store.process(arrival(1, "a"), work)
    assert len(refused) == 2
    assert await server.effects() == {}


async def test_an_error_that_is_swallowed_within_a_savepoint_fails_the_attempt_at_its_end(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        async with tx.savepoint():
            with pytest.raises((psycopg.Error, SyntaxError)):
                await tx.execute("this is no statement")

    with pytest.raises((psycopg.errors.InFailedSqlTransaction, RuntimeError), match="aborted"):
        await store.process(arrival(1, "a"), work)
    assert await server.statuses() == {}


async def test_a_cancellation_of_the_handlers_own_making_is_a_failed_attempt(server: Server) -> None:
    store, _ = await server.of("a")

    async def work(tx: Transaction) -> None:
        other = asyncio.ensure_future(asyncio.sleep(60))
        other.cancel()
        await other

    with pytest.raises(AttemptFailed, match="cancelled"):
        await store.process(arrival(1, "a"), work)
    assert await server.statuses() == {}


async def test_a_transaction_is_dead_once_its_attempt_is_over(server: Server) -> None:
    store, _ = await server.of("a")
    kept: list[Transaction] = []

    async def work(tx: Transaction) -> None:
        kept.append(tx)

    await store.process(arrival(1, "a"), work)
    with pytest.raises(TransactionClosed):
        await server.effect(kept[0], "a")


class Held:
    """A handler that has written, and returns when it is released."""

    def __init__(self, server: Server, id: str) -> None:
        self.began, self.let_go = asyncio.Event(), asyncio.Event()
        self.work = writing(server, id, self._hold)

    async def _hold(self) -> None:
        self.began.set()
        await self.let_go.wait()


async def test_a_row_in_anothers_open_transaction_is_waited_for_and_never_decided(server: Server) -> None:
    a, _ = await server.of("a")
    b, _ = await server.of("b")
    held = Held(server, "x")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(a.process(arrival(1, "x"), held.work))
        await held.began.wait()
        with pytest.raises(RowLocked):
            await b.insert([arrival(2, "x"), arrival(3, "y")])
        assert await server.statuses() == {}
        second = group.create_task(b.process(arrival(1, "x"), held.work))
        held.let_go.set()
    assert (first.result(), second.result()) == (Outcome.STORED, Outcome.PRESENT)
    assert await server.effects() == {"x": 1}


async def test_the_sessions_of_a_dead_lease_owner_end_and_its_row_is_unlocked(server: Server) -> None:
    a, _ = await server.of("a" * 16)
    b, _ = await server.of("b" * 16)
    held = Held(server, "x")
    async with asyncio.TaskGroup() as group:
        attempt = group.create_task(_outcome(a.process(arrival(1, "x"), held.work)))
        await held.began.wait()
        assert await b.end_sessions("a" * 16, silent_s=0.0) is Sessions.SILENT
        assert await b.insert([arrival(1, "x")]) == [Outcome.STORED]
        held.let_go.set()
    assert isinstance(attempt.result(), Unavailable)
    assert await server.effects() == {}


async def _outcome(attempt: Awaitable[Outcome | EarlierAttempts]) -> object:
    try:
        return await attempt
    except Unavailable as error:
        return error


async def test_an_event_is_dead_lettered_once_and_logged_once(server: Server) -> None:
    store, _ = await server.of("a")
    assert (await store.dead_letter(arrival(1, "a"), Reject("no"))).outcome is Outcome.STORED
    assert (await store.dead_letter(arrival(1, "a"), Reject("no"))).outcome is Outcome.PRESENT
    assert await server.statuses() == {"a": "dead"}
    [dead_letter] = await store.unlogged(10)
    assert (dead_letter.id, dead_letter.error) == ("a", "Reject: no")
    await store.mark_logged([dead_letter])
    assert await store.unlogged(10) == []


async def test_a_stored_event_never_becomes_a_dead_letter(server: Server) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "a")])
    assert (await store.dead_letter(arrival(1, "a"), ValueError("late"))).outcome is Outcome.PRESENT
    assert (await server.statuses(), await server.dead_letters()) == ({"a": "stored"}, [])


async def test_a_replay_turns_dead_into_stored_together_with_its_effect_once(server: Server) -> None:
    store, dead_letters = await server.of("a")
    await store.dead_letter(arrival(1, "a"), Reject("no"))

    async def work(_arrival: object, tx: Transaction) -> None:
        await server.effect(tx, "a")

    async def fail(_arrival: object, tx: Transaction) -> None:
        await server.effect(tx, "a")
        raise Reject("still not")

    with pytest.raises(Reject):
        await dead_letters.replay("/oncecast", "a", fail)
    assert await server.statuses() == {"a": "dead"}
    assert [await dead_letters.replay("/oncecast", "a", work) for _ in range(2)] == [True, False]
    assert (await server.statuses(), await server.effects()) == ({"a": "stored"}, {"a": 1})


async def test_a_journal_is_known_by_the_key_with_which_the_group_met_it_first(server: Server) -> None:
    store, _ = await server.of("a")
    assert await store.meet_journal(JOURNAL, "first") == "first"
    assert await store.meet_journal(JOURNAL, "other") == "first"
    assert await store.meet_journal("another", "other") == "other"
    assert await store.meet_journal(JOURNAL, "first") == "first"


async def test_listeners_that_meet_a_journal_at_the_same_time_agree_on_its_key(server: Server) -> None:
    (one, _), (other, _) = await server.of("a"), await server.of("b")
    met = await asyncio.gather(*(store.meet_journal(JOURNAL, f"{n}") for n in range(8) for store in (one, other)))
    assert len(set(met)) == 1


# --- cursors and gaps ----------------------------------------------------------------------------------------


async def cursor_of(store: ListenerStore) -> Cursor | None:
    """As it stands."""
    saved = await store.load_cursor(JOURNAL)
    return saved.cursor if saved is not None else None


async def test_the_cursor_moves_over_recorded_ranges_and_no_further(server: Server) -> None:
    store, _ = await server.of("a")
    await store.probe()  # it connects
    for first, last in ((1, 4), (5, 6), (8, 10), (9, 10)):
        await record(store, first, last)
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=10)
    assert (save.saved, save.missing) == (Cursor("e1", 6), True)
    await record(store, 6, 7)
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 6), proved=10)
    assert (save.saved, save.missing) == (Cursor("e1", 10), False)
    assert await store.load_cursor(JOURNAL) == SavedCursor(Cursor("e1", 10), EPOCHS)


async def test_ranges_are_not_recorded_by_another_server_than_the_one_that_has_their_rows(server: Server) -> None:
    store, _ = await server.of("a")
    await store.probe()
    assert not await store.record_ranges([EndedRange(JOURNAL, "e1", 1, 3)], "another")
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=0)
    assert save.saved == Cursor("e1", 0)


async def test_a_range_of_a_divergent_history_does_not_move_the_cursor(server: Server) -> None:
    store, _ = await server.of("a")
    await store.probe()
    await record(store, 1, 3, epoch="diverged")
    save = await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=0)
    assert (save.saved, save.missing) == (Cursor("e1", 0), False)


async def test_a_group_without_a_cursor_can_begin_anywhere_and_one_that_has_it_stays(server: Server) -> None:
    store, _ = await server.of("a")
    await store.begin_cursor(JOURNAL, EPOCHS, Cursor("e1", 41))
    await store.begin_cursor(JOURNAL, EPOCHS, Cursor("e1", 99))
    assert await cursor_of(store) == Cursor("e1", 41)


async def stored_up_to_5(store: ListenerStore, *, saved: int = 5) -> None:
    """Five events, and a cursor over the first `saved` of them."""
    batch = [arrival(n) for n in range(1, 6)]
    await store.insert(batch)
    await record(store, 1, saved)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=saved)


async def test_a_gap_is_noted_with_its_bounds_together_with_the_cursor_that_passes_it(server: Server) -> None:
    store, _ = await server.of("a")
    await stored_up_to_5(store)
    later = [*EPOCHS, Epoch("e2", 9)]
    for _ in range(2):  # twice is once
        assert await store.pass_gap(JOURNAL, later, first=20, reason="retention") == Cursor("e2", 19)
        assert await server.gaps() == [(JOURNAL, "e1", 6, 19, "retention")]
        assert await cursor_of(store) == Cursor("e2", 19)


async def test_a_gap_that_lies_ahead_is_not_passed_before_all_up_to_it(server: Server) -> None:
    store, _ = await server.of("a")
    await stored_up_to_5(store, saved=3)
    pass_ahead = partial(store.pass_gap, JOURNAL, EPOCHS, first=20, reason="skipped", after=5)
    assert await pass_ahead() == Cursor("e1", 3)
    await record(store, 4, 5)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 3), proved=5)
    assert await pass_ahead() == Cursor("e1", 19)
    assert await server.gaps() == [(JOURNAL, "e1", 6, 19, "skipped")]


async def test_a_group_that_is_new_or_only_lags_sees_no_gap(server: Server) -> None:
    store, _ = await server.of("a")
    assert await store.pass_gap(JOURNAL, EPOCHS, first=20, reason="retention") is None
    await stored_up_to_5(store)
    assert await store.pass_gap(JOURNAL, EPOCHS, first=6, reason="retention") == Cursor("e1", 5)
    assert await server.gaps() == []


@pytest.mark.parametrize("known", [EPOCHS, [*EPOCHS, Epoch("e9", 3)]], ids=["behind", "elsewhere"])
async def test_a_listener_that_does_not_know_the_epoch_of_the_cursor_does_not_move_it(
    server: Server, known: list[Epoch]
) -> None:
    """It may know a future of the journal that is lost: what ends there is no place in what came instead."""
    store, _ = await server.of("a")
    batch = [arrival(n) for n in range(1, 6)]
    await store.insert(batch)
    newer = [*EPOCHS, Epoch("e2", 3)]
    await store.begin_cursor(JOURNAL, newer, Cursor("e2", 4))
    await record(store, 1, 5)
    saved = await store.save_cursor(JOURNAL, known, position=Cursor("e1", 0), proved=5)
    assert saved == (None, True), "it has to read again"
    assert await store.pass_gap(JOURNAL, known, first=20, reason="skipped") is None
    assert await cursor_of(store) == Cursor("e2", 4)
    assert await server.gaps() == []


async def test_a_cursor_in_a_divergent_history_is_translated_to_the_current_journal(server: Server) -> None:
    store, _ = await server.of("a")
    lost, journals = [*EPOCHS, Epoch("e9", 3)], [*EPOCHS, Epoch("e2", 4)]
    await store.begin_cursor(JOURNAL, lost, Cursor("e9", 5))
    await store.adopt_cursor(JOURNAL, journals, instead_of=EPOCHS)
    assert await cursor_of(store) == Cursor("e9", 5), "it has other openings than those that were found lost"
    await store.adopt_cursor(JOURNAL, journals, instead_of=lost)
    assert await store.load_cursor(JOURNAL) == SavedCursor(Cursor("e1", 2), journals)


# --- one application per group -------------------------------------------------------------------------------


async def test_the_newest_application_of_a_group_is_the_one_with_all_handlers_unless_another_is_forced(
    server: Server,
) -> None:
    store, _ = await server.of("a")
    other, _ = await server.of("b")
    assert await store.register_handlers(frozenset(("a",)), force=False) == frozenset()
    assert await other.register_handlers(frozenset(("a", "b")), force=False) == frozenset()
    assert await store.register_handlers(frozenset(("a",)), force=False) == frozenset("b")
    assert await store.register_handlers(frozenset(("c",)), force=False) == frozenset(("a", "b"))
    assert await store.register_handlers(frozenset(("c",)), force=True) == frozenset()
    assert await other.register_handlers(frozenset(("a", "b")), force=False) == frozenset("c")


async def test_nothing_ends_in_the_name_of_an_application_that_is_not_the_newest(server: Server) -> None:
    """However long a listener has not heard of it."""
    store, _ = await server.of("a")
    other, _ = await server.of("b")
    await store.register_handlers(frozenset(), force=False)
    assert await store.insert([arrival(1)]) == [Outcome.STORED]
    await other.register_handlers(frozenset(("tick",)), force=False)
    for late in (
        store.insert([arrival(2), arrival(3)]),
        store.process(arrival(2), writing(server, "x")),
        store.dead_letter(arrival(2), Reject("no")),
    ):
        with pytest.raises(RowLocked):
            await late
    assert len(await server.statuses()) == 1
    assert await store.insert([arrival(1)]) == [Outcome.PRESENT]
    assert await other.process(arrival(2), writing(server, "x")) is Outcome.STORED


async def test_many_arrivals_of_one_identity_are_compared_with_its_row_at_once_and_conflicts_are_kept(
    server: Server,
) -> None:
    store, _ = await server.of("a")
    await store.insert([arrival(1, "x", {"n": 1}), arrival(9, "y")])
    repeated = [arrival(n, "x", {"n": n % 2}) for n in range(1, 8)]
    elsewhere = arrival(3, "x", {"n": 1}, epoch="e2")
    outcomes = await store.compare([*repeated, elsewhere, arrival(10, "gone")])
    same, other = Outcome.DUPLICATE, Outcome.CONFLICT
    assert outcomes == [Outcome.PRESENT, other, same, other, same, other, same, same, None]
    assert await store.compare(repeated) == outcomes[:7]
    assert sorted(await server.conflicts()) == [("x", 2), ("x", 4), ("x", 6)]
    assert set(await server.statuses()) == {"x", "y"}
