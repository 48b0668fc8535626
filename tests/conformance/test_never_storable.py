"""An event that PostgreSQL can never hold, from a producer of others: dead at once, and in nobody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import Cost, DataRefused, classify
from oncecast.core.outcomes import Outcome
from oncecast.core.transaction import OpenTransaction
from oncecast.stores.postgres import Database, PostgresEvents
from tests.support.places import arrival

HEAD = b'{"specversion":"1.0","id":"bad","source":"/oncecast","type":"tick",'
NEVER_STORABLE = {
    "base64": b'"data_base64":"YWJj="',
    "base64 number": b'"data_base64":7',
    "nul": b'"data":"\\u0000"',
    "nul key": b'"data":{"\\u0000":1}',
    "surrogate": b'"data":"\\ud800"',
    "surrogate subject": b'"subject":"\\ud800"',
    "nul subject": b'"subject":"\\u0000"',
    "time": b'"time":"the day after"',
    "time 60": b'"time":"2016-12-31T23:59:60.5Z"',
    "number": b'"data":1e999999',
    "decimals": b'"data":1e-99999',
    "digits": b'"data":' + b"9" * 200_000,
    "deep": b'"data":' + b"[" * 50_000 + b"]" * 50_000,
    "extension nul": b'"ext":"\\u0000"',
    "extension surrogate": b'"ext":"\\ud800"',
    "extension deep": b'"ext":' + b"[" * 50_000 + b"]" * 50_000,
    "utf8": b'"data":"\xff"',
    "raw control": b'"data":"\x01"',
    "extension name": b'"\\u0000":1',
}


@pytest.fixture
async def store(postgres_url: str, schema: str) -> AsyncIterator[PostgresEvents]:
    database = Database(postgres_url, SYSTEM_CLOCK, schema=schema, instance="a", token="a" * 16)
    await database.open()
    await database.migrate()
    store = PostgresEvents(database)
    yield store
    await store.close()


async def no_effect(_tx: OpenTransaction) -> None:
    """A handler that only looks."""


@pytest.mark.parametrize("members", NEVER_STORABLE.values(), ids=NEVER_STORABLE)
async def test_what_can_never_be_stored_is_dead_at_once_and_its_neighbours_go_in(
    store: PostgresEvents, sql: psycopg.AsyncConnection[Any], members: bytes
) -> None:
    good, bad = arrival(1, "good"), arrival(2, "bad")
    bad.raw = msgspec.Raw(HEAD + members + b"}")
    with pytest.raises(DataRefused) as together:
        await store.insert([good, bad])
    assert classify(together.value) is Cost.DEAD
    for attempt in (store.insert([bad]), store.process(bad, no_effect)):
        with pytest.raises(DataRefused) as alone:
            await attempt
        assert classify(alone.value) is Cost.DEAD
    assert await store.insert([good]) == [Outcome.STORED]
    assert (await store.dead_letter(bad, alone.value)).outcome is Outcome.STORED
    assert (await store.dead_letter(bad, alone.value)).outcome is Outcome.PRESENT
    cursor = await sql.execute("select id, status from events")
    assert dict(await cursor.fetchall()) == {"good": "stored", "bad": "dead"}
