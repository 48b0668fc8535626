"""Conflicts for operators: list, count, show, discard, and replay under a new id."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from psycopg.rows import DictRow, tuple_row

from oncecast.core.conflicts import ConflictState
from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.errors import IdentityTaken, InvalidPageMark
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import conflict_to_replay
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database, rfc3339
from oncecast.stores.postgres.pages import behind, mark_of
from oncecast.stores.postgres.rows import rows_of
from oncecast.stores.postgres.work import replay

_OFFSET_MAX_DIGITS = 18
_TIMES = ("seen_at", "replayed_at", "discarded_at")


class PostgresConflicts:
    """The conflicts of a group in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def newest(
        self,
        *,
        limit: int,
        state: ConflictState = "open",
        after: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a page of conflicts in one state, newest first."""
        values = {**_behind(after), "limit": limit, "state": state, "source": source, "id": id}
        async with self._db.ask("read", "list_conflicts", values) as cursor:
            return [_marked(row) for row in await cursor.fetchall()]

    async def get(self, place: Cursor) -> dict[str, Any] | None:
        """Return a conflict with its event and the row of its identity."""
        async with self._db.ask("read", "get_conflict", place._asdict()) as cursor:
            row = await cursor.fetchone()
        return None if row is None else {**_shown(row), "event": msgspec.Raw(row["raw"]), "row": _row(row)}

    async def discard(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Close open conflicts; skip rows that another session has locked."""
        return await self._change("discard_conflicts", places)

    async def restore(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Open discarded conflicts again."""
        return await self._change("restore_conflicts", places)

    async def replay(self, place: Cursor, new_id: str, work: ReplayWork) -> bool:
        """Insert the event under `new_id`, run `work` and close the conflict, in one transaction."""
        return await replay(self._db, work, partial(self._store, place, new_id))

    async def _store(self, place: Cursor, new_id: str, connection: PostgresConnection) -> Arrival | None:
        """Store the event of a conflict, whose row it locks, under the new id; return None if it is not open."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["lock_conflict"], place._asdict())
            row = await cursor.fetchone()
        if row is None:
            return None
        journal, raw, at_us = row
        arrival = conflict_to_replay(raw, new_id, place=place, journal=journal, at_us=at_us)
        rows = rows_of([arrival], self._db.instance)
        if (await connection.execute(self._db.queries["insert"], rows)).rowcount == 0:
            await connection.execute("rollback")
            raise IdentityTaken(f"{arrival.source} already has an event {new_id[:100]!r}")
        await connection.execute(self._db.queries["note_conflict_replayed"], {**place._asdict(), "id": new_id})
        return arrival

    async def _change(self, query: str, places: Sequence[Cursor]) -> set[Cursor]:
        values = {"epochs": [place.epoch for place in places], "offsets": [place.offset for place in places]}
        async with self._db.ask("upkeep", query, values) as cursor:
            return {Cursor(row["epoch"], row["offset"]) for row in await cursor.fetchall()}


def _behind(mark: str | None) -> dict[str, Any]:
    values = behind(mark)
    offset = values["before_id"]
    if offset is not None and not (offset.isascii() and offset.isdigit() and len(offset) <= _OFFSET_MAX_DIGITS):
        raise InvalidPageMark("not the mark of a page")
    return {"before_at": values["before_at"], "before_epoch": values["before_source"], "before_offset": offset}


def _marked(row: DictRow) -> dict[str, Any]:
    return {**_shown(row), "mark": mark_of(row["seen_at"], row["epoch"], str(row["offset"]))}


def _shown(row: DictRow) -> dict[str, Any]:
    times = {name: None if row[name] is None else rfc3339(row[name]) for name in _TIMES}
    plain = ("source", "id", "type", "journal", "listener", "replayed_as")
    return {"cursor": f"{row['epoch']}:{row['offset']}", **{name: row[name] for name in plain}, **times}


def _row(row: DictRow) -> dict[str, Any] | None:
    """Return the row of `events` that has the conflict's identity, or None."""
    if row["row_status"] is None:
        return None
    return {
        "status": row["row_status"],
        "stored_at": rfc3339(row["row_stored_at"]),
        "cursor": f"{row['row_epoch']}:{row['row_offset']}",
    }
