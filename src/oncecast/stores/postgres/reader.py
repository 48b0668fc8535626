"""Read events for the API: structured CloudEvents with their status."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import msgspec
from psycopg import AsyncServerCursor
from psycopg.rows import dict_row

from oncecast.core.open_work import OpenWork
from oncecast.stores.postgres.database import Database, rfc3339
from oncecast.stores.postgres.pages import behind, mark_of

PAGE_MAX_BYTES = 4 * 1024 * 1024
"""A page ends with the event that reaches this size, as JSON."""
FETCH_ROWS = 20
"""Rows fetched at a time, which limits the rows in memory beyond a page."""


class EventReader:
    """Reads stored events. Raises Unavailable if PostgreSQL is down or slow."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def newest(
        self,
        *,
        limit: int,
        after: str | None = None,
        type: str | None = None,
        status: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` events, newest first: `{"event": CloudEvent, "status": …, "stored_at": …, "mark": …}`.

        Pass the last `mark` as `after` for the next page; raises InvalidPageMark for any other text. If a page ends
        early, at PAGE_MAX_BYTES, its last event has `is_cut`.
        """
        parameters = {"limit": limit, "type": type, "status": status, "source": source, "id": id, **behind(after)}
        async with (
            self._db.connection("read") as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.transaction(),
            connection.cursor("newest", row_factory=dict_row) as cursor,
        ):
            await cursor.execute(self._db.queries["newest"], parameters)
            return await _read_page(cursor, limit)

    async def retrying(self, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return up to `limit` events that wait for their next attempt, the soonest first; pages as in `newest`."""
        async with self._db.ask("read", "retrying", {"limit": limit, **behind(after)}) as cursor:
            return [
                {
                    **row,
                    "failed_at": rfc3339(row["failed_at"]),
                    "next_at": rfc3339(row["next_at"]),
                    "mark": mark_of(row["next_at"], row["source"], row["id"]),
                }
                for row in await cursor.fetchall()
            ]

    async def open_work(self) -> OpenWork:
        """Count what waits for something or somebody, of the whole group."""
        async with self._db.connection("read") as connection, asyncio.timeout(self._db.limits.deadline_s):
            row = await (await connection.execute(self._db.queries["open_work"])).fetchone()
        return OpenWork(*row) if row else OpenWork(0, 0, 0.0, 0, 0, 0.0)

    async def gaps(self) -> list[dict[str, Any]]:
        """Return the gaps of the group, newest first."""
        async with self._db.ask("read", "list_gaps", {}) as cursor:
            return [{**row, "noted_at": rfc3339(row["noted_at"])} for row in await cursor.fetchall()]


async def _read_page(cursor: AsyncServerCursor[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    size_bytes = 0
    while len(shown) < limit and (rows := await cursor.fetchmany(FETCH_ROWS)):
        for row in rows:
            shown.append(_present(row))
            size_bytes += len(msgspec.json.encode(shown[-1]["event"]))
            if size_bytes >= PAGE_MAX_BYTES:
                shown[-1]["is_cut"] = True
                return shown
    return shown


def _present(row: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": row["id"],
        "source": row["source"],
        "type": row["type"],
    }
    for name in ("subject", "datacontenttype", "dataschema"):
        if row[name] is not None:
            event[name] = row[name]
    if row["time"] is not None:
        event["time"] = row["time_as_given"] or rfc3339(row["time"])
    event.update(row["extensions"] or {})
    if row["data_bytes"] is not None:
        event["data_base64"] = b64encode(row["data_bytes"]).decode()
    elif row["data"] is not None:
        event["data"] = msgspec.Raw(row["data"].encode())
    return {
        "event": event,
        "status": row["status"],
        "cursor": f"{row['epoch']}:{row['offset']}",
        "listener": row["listener"],
        "attempts": row["attempts"],
        "accepted_at": rfc3339(row["accepted_at"]),
        "stored_at": rfc3339(row["stored_at"]),
        "mark": mark_of(row["stored_at"], row["source"], row["id"]),
    }
