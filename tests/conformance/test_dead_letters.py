"""What every store of dead letters must do for operators: list, mend, replay once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from oncecast.core.errors import DataRefused, Reject, RowLocked
from oncecast.core.event import Arrival
from oncecast.core.ports import DeadLetters, Outcome, Transaction
from oncecast.stores.postgres import Database, EventReader, PostgresEvents, PostgresLetters
from tests.conformance.test_event_store import arrival, database_of, effect, sql, store, values

__all__ = ["database_of", "sql", "store"]


@pytest.fixture
async def letters(store: PostgresEvents, database_of: Callable[..., Database]) -> AsyncIterator[PostgresLetters]:
    database = database_of("listener-b")
    await database.open()
    yield PostgresLetters(database)
    await database.close()


async def nothing(_arrival: Arrival, _tx: Transaction) -> None:
    return


async def all_of(letters: DeadLetters, **filters: Any) -> list[str]:
    return [row["id"] for row in await letters.newest(limit=100, **filters)]


async def test_dead_letters_are_listed_newest_first_in_pages_and_by_what_they_are(
    store: PostgresEvents, letters: PostgresLetters
) -> None:
    for n in (1, 2, 3):
        await store.bury(arrival(n, source=f"/s{n}"), Reject(f"out of stock {n}"))
    await store.insert([arrival(4)])
    assert await all_of(letters) == ["id-3", "id-2", "id-1"]
    first = await letters.newest(limit=2)
    assert await all_of(letters, after=first[-1]["mark"]) == ["id-1"]
    assert await all_of(letters, error="STOCK 2") == ["id-2"]
    assert await all_of(letters, source="/s3", type="tick", id="id-3", listener="listener-a") == ["id-3"]
    assert await all_of(letters, listener="listener-b") == []
    with pytest.raises(ValueError, match="mark"):
        await letters.newest(limit=1, after="x")


async def test_one_dead_letter_comes_with_its_cause_and_the_event_as_it_was_received(
    store: PostgresEvents, letters: PostgresLetters
) -> None:
    dead = arrival(1, data={"n": 1.50})
    await store.bury(dead, Reject("out of stock"))
    letter = await letters.get(dead.source, dead.id)
    assert letter is not None
    assert (bytes(letter["event"]), letter["error"], letter["mended"]) == (
        bytes(dead.raw),
        "Reject: out of stock",
        False,
    )
    assert "Reject" in letter["trace"]
    assert await letters.get("/other", dead.id) is None


async def test_a_replay_stores_the_event_with_what_its_handler_writes_and_happens_once(
    store: PostgresEvents, letters: PostgresLetters, sql: Any, schema: str
) -> None:
    dead = arrival(1)
    await store.bury(dead, Reject("no"))

    async def work(given: Arrival, tx: Transaction) -> None:
        assert (given.id, given.attempts, given.cursor, bytes(given.raw)) == (
            dead.id,
            2,
            dead.cursor,
            bytes(dead.raw),
        )
        await effect(schema, given.id)(tx)

    replays = [letters.replay(dead.source, dead.id, work) for _ in range(5)]
    assert sorted(await asyncio.gather(*replays)) == [False, False, False, False, True]
    assert await values(sql, "select status, attempts, listener from events") == [("stored", 2, "listener-b")]
    assert await values(sql, "select id from effects") == [dead.id]
    assert await all_of(letters) == []
    assert await store.insert([dead]) == [Outcome.PRESENT]


async def test_a_replay_that_fails_leaves_the_letter_dead_and_no_effect(
    store: PostgresEvents, letters: PostgresLetters, sql: Any, schema: str
) -> None:
    dead = arrival(1)
    await store.bury(dead, Reject("no"))

    async def fail(given: Arrival, tx: Transaction) -> None:
        await effect(schema, given.id)(tx)
        raise Reject("still not")

    with pytest.raises(Reject) as raised:
        await letters.replay(dead.source, dead.id, fail)
    await letters.note_failure(dead.source, dead.id, raised.value)
    assert await values(sql, "select status from events") == ["dead"]
    assert await values(sql, "select id from effects") == []
    assert await values(sql, "select error, attempts from dead_letters") == [("Reject: still not", 2)]


async def test_a_second_replay_beside_one_that_is_slow_is_told_to_wait(
    store: PostgresEvents, letters: PostgresLetters
) -> None:
    dead = arrival(1)
    await store.bury(dead, Reject("no"))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def be_slow(_arrival: Arrival, _tx: Transaction) -> None:
        begun.set()
        await go_on.wait()

    first = asyncio.create_task(letters.replay(dead.source, dead.id, be_slow))
    await begun.wait()
    with pytest.raises(RowLocked):
        await letters.replay(dead.source, dead.id, nothing)
    go_on.set()
    assert await first is True


async def test_mended_data_is_what_a_replay_sees_and_stores_and_the_original_is_kept(
    store: PostgresEvents, letters: PostgresLetters, sql: Any
) -> None:
    dead = arrival(1, data={"sku": "tae"}, subject="order")
    await store.bury(dead, Reject("no such sku"))
    assert await letters.mend(dead.source, dead.id, b'{"sku": "tea"}') is True
    letter = await letters.get(dead.source, dead.id)
    assert letter is not None
    assert (bytes(letter["event"]), letter["mended"]) == (bytes(dead.raw), True)
    assert msgspec.json.decode(letter["mended_data"]) == {"sku": "tea"}
    seen = []

    async def look(given: Arrival, _tx: Transaction) -> None:
        seen.append(msgspec.json.decode(given.raw))

    assert await letters.replay(dead.source, dead.id, look) is True
    assert [(event["data"], event["subject"]) for event in seen] == [({"sku": "tea"}, "order")]
    assert await values(sql, "select data, subject from events") == [({"sku": "tea"}, "order")]
    assert await values(sql, "select raw from dead_letters") == [bytes(dead.raw)]


async def test_only_a_dead_letter_can_be_mended_and_only_with_what_can_be_stored(
    store: PostgresEvents, letters: PostgresLetters
) -> None:
    await store.insert([arrival(1)])
    assert await letters.mend("/oncecast", "id-1", b"1") is False
    assert await letters.replay("/oncecast", "id-1", nothing) is False
    dead = arrival(2)
    await store.bury(dead, Reject("no"))
    for data in (b'{"a": "\\u0000"}', b"nonsense", b"1e400000"):
        with pytest.raises(DataRefused):
            await letters.mend(dead.source, dead.id, data)


async def test_an_event_whose_payload_postgresql_refused_is_stored_whole_once_it_is_mended(
    store: PostgresEvents, letters: PostgresLetters, database_of: Callable[..., Database]
) -> None:
    dead = arrival(1)
    text = (
        b'{"specversion":"1.0","id":"id-1","source":"/oncecast","type":"tick","subject":"s","data":"\\u0000","x":"y"}'
    )
    dead.raw = msgspec.Raw(text)
    await store.bury(dead, DataRefused("no"))
    with pytest.raises(DataRefused):
        await letters.replay(dead.source, dead.id, nothing)
    assert await letters.mend(dead.source, dead.id, b'"mended"')
    assert await letters.replay(dead.source, dead.id, nothing)
    database = database_of()
    await database.open()
    [row] = await EventReader(database).newest(limit=10)
    await database.close()
    event = msgspec.json.decode(msgspec.json.encode(row["event"]))
    assert (row["status"], event["data"], event["subject"], event["x"]) == ("stored", "mended", "s", "y")
