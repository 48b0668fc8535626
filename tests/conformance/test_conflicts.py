"""What every store of conflicts must do for operators: list, count, discard, replay once under an id of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from oncecast.core.conflicts import Conflicts
from oncecast.core.errors import IdentityTaken, InvalidPageMark, Reject
from oncecast.core.event import Arrival, Cursor
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import EventStore
from oncecast.core.transaction import Transaction
from oncecast.event import Event
from tests.support.event_stores import Server, server
from tests.support.places import arrival

__all__ = ["server"]

STATUSES = ("pending", "paid", "refunded")


def status_change(offset: int, status: str, id_: str = "order") -> Arrival:
    changed = arrival(offset)
    changed.id, changed.type = id_, f"order.{status}"
    changed.raw = msgspec.Raw(Event.new(changed.type, {"status": status}, id=id_, source=changed.source).to_json())
    return changed


async def nothing(_arrival: Arrival, _tx: Transaction) -> None:
    return


@pytest.fixture
async def conflicts(server: Server) -> Conflicts:
    """Of three changes of one order, two: they came under the id of the first."""
    store, _ = await server.of("listener-a")
    await store_changes(store)
    return server.operated["listener-a"]


async def store_changes(store: EventStore) -> None:
    outcomes = [(await store.insert([status_change(n, status)]))[0] for n, status in enumerate(STATUSES, 1)]
    assert outcomes == [Outcome.STORED, Outcome.CONFLICT, Outcome.CONFLICT]


async def offsets(conflicts: Conflicts, **wanted: Any) -> list[int]:
    return [Cursor.parse(row["cursor"]).offset for row in await conflicts.newest(limit=100, **wanted)]


async def place_of(conflicts: Conflicts, offset: int, state: Any = "open") -> Cursor:
    places = [Cursor.parse(row["cursor"]) for row in await conflicts.newest(limit=100, state=state)]
    return next(place for place in places if place.offset == offset)


async def test_open_conflicts_are_listed_newest_first_in_pages_and_counted(conflicts: Conflicts) -> None:
    assert await offsets(conflicts) == [3, 2]
    assert len(await conflicts.newest(limit=10)) == 2
    (newest,) = await conflicts.newest(limit=1)
    assert (newest["id"], newest["type"]) == ("order", "order.refunded")
    assert await offsets(conflicts, after=newest["mark"]) == [2]
    assert await offsets(conflicts, id="order", source=newest["source"]) == [3, 2]
    assert await offsets(conflicts, id="other") == []
    with pytest.raises(InvalidPageMark):
        await conflicts.newest(limit=1, after="x")


async def test_one_is_shown_with_its_event_and_the_row_that_has_its_identity(conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    found = await conflicts.get(place)
    assert found is not None
    assert Event.from_json(found["event"]).data == {"status": "paid"}
    assert (found["row"]["status"], found["row"]["cursor"]) == ("stored", f"{place.epoch}:1")
    assert await conflicts.get(Cursor(place.epoch, 1)) is None


async def test_a_replay_stores_the_event_under_its_new_id_together_with_its_effects(
    server: Server, conflicts: Conflicts
) -> None:
    seen: list[tuple[str, Any]] = []

    async def work(replayed: Arrival, tx: Transaction) -> None:
        seen.append((replayed.id, Event.from_json(replayed.raw).data))
        await server.effect(tx, replayed.id)

    place = await place_of(conflicts, 2)
    assert await conflicts.replay(place, "order-paid", work)
    assert seen == [("order-paid", {"status": "paid"})]
    assert await server.statuses() == {"order": "stored", "order-paid": "stored"}
    assert await server.effects() == {"order-paid": 1}
    assert await offsets(conflicts) == [3]
    assert await offsets(conflicts, state="replayed") == [2]
    assert len(await conflicts.newest(limit=10)) == 1
    (row,) = await conflicts.newest(limit=10, state="replayed")
    assert row["replayed_as"] == "order-paid"


async def test_a_replay_that_is_asked_for_twice_happens_once(server: Server, conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)

    async def work(replayed: Arrival, tx: Transaction) -> None:
        await server.effect(tx, "effect")

    both = await asyncio.gather(conflicts.replay(place, "a", work), conflicts.replay(place, "b", work))
    assert sorted(both) == [False, True]
    assert await server.effects() == {"effect": 1}
    assert len(await server.statuses()) == 2


async def test_a_replay_whose_handler_fails_changes_nothing(server: Server, conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)

    async def work(replayed: Arrival, tx: Transaction) -> None:
        await server.effect(tx, "effect")
        raise Reject("no")

    with pytest.raises(Reject):
        await conflicts.replay(place, "a", work)
    assert await server.effects() == {}
    assert await server.statuses() == {"order": "stored"}
    assert await offsets(conflicts) == [3, 2]


async def test_a_replay_that_is_cut_short_is_as_if_never_asked(server: Server, conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    begun = asyncio.Event()

    async def work(replayed: Arrival, tx: Transaction) -> None:
        begun.set()
        await asyncio.Event().wait()

    replaying = asyncio.create_task(conflicts.replay(place, "a", work))
    await begun.wait()
    replaying.cancel()
    await asyncio.wait([replaying])
    assert await server.statuses() == {"order": "stored"}
    assert await conflicts.replay(place, "a", nothing)


async def test_an_id_that_is_taken_is_refused_and_the_conflict_stays_open(
    server: Server, conflicts: Conflicts
) -> None:
    place = await place_of(conflicts, 2)
    with pytest.raises(IdentityTaken, match="order"):
        await conflicts.replay(place, "order", nothing)
    assert await offsets(conflicts) == [3, 2]


async def test_a_discarded_conflict_is_kept_and_can_be_restored_but_not_replayed(conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    assert await conflicts.discard([place, Cursor(place.epoch, 9)]) == {place}
    assert await conflicts.discard([place]) == set()
    assert not await conflicts.replay(place, "a", nothing)
    assert (await offsets(conflicts), await offsets(conflicts, state="discarded")) == ([3], [2])
    assert await conflicts.restore([place]) == {place}
    assert await conflicts.restore([place]) == set()
    assert await offsets(conflicts) == [3, 2]


async def test_what_was_replayed_can_neither_be_discarded_nor_replayed_again(conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    assert await conflicts.replay(place, "a", nothing)
    assert await conflicts.discard([place]) == set()
    assert await conflicts.restore([place]) == set()
    assert not await conflicts.replay(place, "b", nothing)


async def test_a_conflict_that_arrives_again_after_its_end_stays_ended(server: Server, conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    assert await conflicts.replay(place, "a", nothing)
    store, _ = await server.of("listener-b")
    assert await store.insert([status_change(2, "paid")]) == [Outcome.CONFLICT]
    assert await offsets(conflicts) == [3]


async def test_one_that_is_being_replayed_is_not_discarded(conflicts: Conflicts) -> None:
    place = await place_of(conflicts, 2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(replayed: Arrival, tx: Transaction) -> None:
        begun.set()
        await go_on.wait()

    replaying = asyncio.create_task(conflicts.replay(place, "a", work))
    await begun.wait()
    assert await conflicts.discard([place]) == set()
    go_on.set()
    assert await replaying
