"""Reading events back for the API: structured CloudEvents with what became of them beside."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg.rows import dict_row

from oncecast.stores.postgres.database import Database


class PageMark(NamedTuple):
    """The last event of a page, newest first: the next page begins behind it."""

    stored_at: str
    source: str
    id: str


class EventReader:
    """Answers questions about stored events. Raises Unavailable when PostgreSQL is."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def newest(
        self,
        *,
        limit: int,
        after: PageMark | None = None,
        type: str | None = None,
        status: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Up to `limit` events, newest first, as `{"event": CloudEvent, "status": …, "stored_at": …, …}`."""
        parameters = {
            "limit": limit,
            "before_at": after.stored_at if after else None,
            "before_source": after.source if after else None,
            "before_id": after.id if after else None,
            "type": type,
            "status": status,
            "source": source,
            "id": id,
        }
        async with (
            self._db.connection(work=False) as connection,
            asyncio.timeout(self._db.limits.deadline_s),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(self._db.queries["newest"], parameters)
            return [_present(row) for row in await cursor.fetchall()]


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
        event["time"] = _rfc3339(row["time"])
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
        "accepted_at": _rfc3339(row["accepted_at"]),
        "stored_at": _rfc3339(row["stored_at"]),
    }


def _rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
