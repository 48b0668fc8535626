"""Reading events back for the API: structured CloudEvents with what became of them beside."""

from __future__ import annotations

import asyncio
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import dict_row

from oncecast.stores.postgres.database import Database, rfc3339


class EventReader:
    """Answers questions about stored events. Raises Unavailable when PostgreSQL is."""

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
        """Up to `limit` events, newest first, as `{"event": CloudEvent, "status": …, "stored_at": …, "mark": …}`.

        `mark` of the last one, given as `after`, brings the next page; raises ValueError for any other text.
        """
        before_at, before_source, before_id = _read_mark(after) if after else (None, None, None)
        parameters = {
            "limit": limit,
            "before_at": before_at,
            "before_source": before_source,
            "before_id": before_id,
            "type": type,
            "status": status,
            "source": source,
            "id": id,
        }
        async with (
            self._db.connection("read") as connection,
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
        event["time"] = rfc3339(row["time"])
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
        "mark": urlsafe_b64encode(
            msgspec.json.encode([rfc3339(row["stored_at"]), row["source"], row["id"]])
        ).decode(),
    }


def _read_mark(mark: str) -> tuple[datetime, str, str]:
    """The place in the list, newest first, behind which a page begins."""
    try:
        stored_at, source, id_ = msgspec.json.decode(urlsafe_b64decode(mark), type=tuple[datetime, str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError("no mark of a page") from error
    if stored_at.tzinfo is None or "\0" in source + id_:
        raise ValueError("no mark of a page")
    return stored_at, source, id_
