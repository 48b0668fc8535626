"""The watch over cursors says so when one stands behind an event that PostgreSQL does not show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import psycopg
import pytest
from psycopg import sql

from oncecast.chaos.watching import CursorWatch
from oncecast.clock import SYSTEM_CLOCK
from oncecast.event import Event
from oncecast.journal import SqliteJournal
from oncecast.stores.postgres import Database

IDS = ["tick:1", "tick:2", "tick:3"]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """With three events."""
    opened = await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
    await opened.append([msgspec.json.encode(Event.new("tick", {}, id=id_, source="/oncecast")) for id_ in IDS])
    yield opened
    await opened.close()


async def look(
    journal: SqliteJournal, path: Path, url: str, schema: str, *, offset: int, rows: list[str]
) -> CursorWatch:
    """At a cursor saved at `offset` while there are `rows`."""
    database = Database(url, SYSTEM_CLOCK, schema=schema, instance="test", token="t")
    await database.migrate()
    await database.close()
    epochs = msgspec.json.encode(journal.epochs).decode()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursors = sql.SQL('insert into {}.cursors (journal, epoch, "offset", epochs) values (%s, %s, %s, %s)')
        events = sql.SQL(
            'insert into {}.events (source, id, type, journal, epoch, "offset", listener, attempts, accepted_at)'
            " values ('/oncecast', %s, 'tick', '', '', 1, '', 1, now())"
        )
        name = sql.Identifier(schema)
        await connection.execute(cursors.format(name), (journal.name, journal.epochs[0].epoch, offset, epochs))
        for id_ in rows:
            await connection.execute(events.format(name), (id_,))
    watch = CursorWatch(url, schema, {journal.name: path}, [], asyncio.Lock())
    async with httpx2.AsyncClient() as client:
        await watch.check(client)
        await watch.check(client)
    return watch


async def test_a_cursor_over_rows_is_as_it_should_be_and_each_event_is_events_checked_once(
    journal: SqliteJournal, tmp_path: Path, postgres_url: str, schema: str
) -> None:
    watch = await look(journal, tmp_path / "journal.db", postgres_url, schema, offset=2, rows=["tick:1", "tick:2"])
    assert (watch.events_checked, watch.ahead) == (2, set())


async def test_a_cursor_that_was_saved_too_far_is_reported_with_the_events_it_passed(
    journal: SqliteJournal, tmp_path: Path, postgres_url: str, schema: str
) -> None:
    watch = await look(journal, tmp_path / "journal.db", postgres_url, schema, offset=3, rows=["tick:1", "tick:3"])
    assert watch.ahead == {"tick:2"}
