"""Dead letters for operators: list, count, show, edit, discard, replay.

The row of `events` decides whether an event is dead; `dead_letters.replayed_at` changes in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import psycopg
from psycopg.rows import DictRow, tuple_row

from oncecast.core.dead_letter_ports import Cause, Causes, Example, ReplayWork
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.errors import DataRefused
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import dead_letter_to_replay
from oncecast.core.tracebacks import trace_of
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database, rfc3339
from oncecast.stores.postgres.pages import behind, mark_of
from oncecast.stores.postgres.rows import identities_of, rows_of, storable
from oncecast.stores.postgres.work import replay


class PostgresDeadLetters:
    """The dead letters of a group in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def newest(self, selection: Selection, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return a page of the selection, newest first."""
        values = {**_chosen(selection), **behind(after), "limit": limit}
        async with self._db.ask("read", "list_dead_letters", values) as cursor:
            return [_marked(row) for row in await cursor.fetchall()]

    async def read(
        self, selection: Selection, *, limit: int, after: str | None = None, max_bytes: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return a page of the selection with all details, and whether there may be more."""
        values = {**_chosen(selection), **behind(after), "limit": limit, "max_bytes": max_bytes}
        async with self._db.ask("read", "read_dead_letters", values) as cursor:
            rows = await cursor.fetchall()
        is_cut = bool(rows) and (rows[0]["found"] > len(rows) or len(rows) == limit)
        return [_whole(_marked(row)) for row in rows], is_cut

    async def causes(self, selection: Selection, *, limit: int) -> Causes:
        """Count the causes of the selection, the largest first."""
        async with self._db.ask("read", "count_causes", {**_chosen(selection), "limit": limit}) as cursor:
            rows = await cursor.fetchall()
        return Causes(
            dead_letters=rows[0]["all_dead_letters"] if rows else 0,
            left_out=rows[0]["all_causes"] - len(rows) if rows else 0,
            causes=[
                Cause(
                    cause=row["cause"],
                    error=row["error"],
                    dead_letters=row["dead_letters"],
                    types=row["types"],
                    newest_at=rfc3339(row["newest_at"]),
                    example=Example(row["source"], row["id"]),
                )
                for row in rows
            ],
        )

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """Return a dead letter with all details."""
        async with self._db.ask("read", "get_dead_letter", {"source": source, "id": id}) as cursor:
            row = await cursor.fetchone()
        return None if row is None else _whole(_shown(row))

    async def edit(self, source: str, id: str, data: bytes) -> bool:
        """Store edited data next to the original. Raises DataRefused with the place in the data, if known."""
        values = {"source": source, "id": id, "data": data.decode()}
        try:
            async with self._db.ask("upkeep", "edit_dead_letter", values) as cursor:
                return cursor.rowcount == 1
        except DataRefused as error:
            place = error.__cause__.diag.context if isinstance(error.__cause__, psycopg.Error) else None
            raise DataRefused(f"{error}; {_line(place)}" if place else str(error)) from error

    async def discard(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Exclude dead letters from lists and replays."""
        return await self._change("discard", dead_letters, discarded=False)

    async def restore(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Undo `discard`."""
        return await self._change("restore", dead_letters, discarded=True)

    async def reset(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Delete edited data."""
        return await self._change("reset", dead_letters, discarded=False)

    async def _change(self, query: str, dead_letters: Sequence[Identity], *, discarded: bool) -> set[Identity]:
        """Change those that are not being replayed and are (or are not) `discarded`; return the changed ones."""
        values = {**identities_of(dead_letters), "discarded": discarded}
        async with self._db.ask("upkeep", query, values) as cursor:
            return {Identity(row["source"], row["id"]) for row in await cursor.fetchall()}

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """Lock the dead letter, store its event, and run `work`, in one transaction."""
        return await replay(self._db, work, partial(self._store, source, id))

    async def _store(self, source: str, id: str, connection: PostgresConnection) -> Arrival | None:
        """Store the event of a dead letter whose row it locks; return None if it is not dead (any more)."""
        identity = {"source": source, "id": id}
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["lock_dead"], identity)
            row = await cursor.fetchone()
        if row is None:
            return None
        raw, edited, type_, journal, epoch, offset, attempts, at_us = row
        arrival = dead_letter_to_replay(
            Identity(source, id),
            raw,
            None if edited is None else edited.encode(),
            type=type_,
            attempts=attempts,
            place=Cursor(epoch, offset),
            journal=journal,
            at_us=at_us,
        )
        await connection.execute(self._db.queries["store_dead"], rows_of([arrival], self._db.instance))
        return arrival

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """Save the newest cause of a failed replay, and count the attempt."""
        values = {
            "source": source,
            "id": id,
            "error": storable(f"{type(cause).__name__}: {cause}"),
            "trace": storable(trace_of(cause)),
        }
        async with self._db.ask("upkeep", "note_failed_replay", values):
            return


def _chosen(selection: Selection) -> dict[str, Any]:
    """Return the parameters of the condition `chosen`."""
    names = ("source", "error", "cause", "listener", "since", "until", "discarded")
    return {
        **{name: getattr(selection, name) for name in names},
        "ids": list(selection.ids) or None,
        "type": selection.type if selection.type_prefix is None else None,
        "type_prefix": selection.type_prefix,
    }


def _marked(row: DictRow) -> dict[str, Any]:
    return {**_shown(row), "mark": mark_of(row["died_at"], row["source"], row["id"])}


def _shown(row: DictRow) -> dict[str, Any]:
    """Return the row with times as text."""
    discarded_at = row["discarded_at"]
    return {
        **row,
        "died_at": rfc3339(row["died_at"]),
        "discarded_at": None if discarded_at is None else rfc3339(discarded_at),
    }


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the event and the edited data as JSON."""
    edited = row["edited_data"]
    return {
        **{name: value for name, value in row.items() if name not in ("raw", "found")},
        "event": msgspec.Raw(row["raw"]),
        "edited_data": None if edited is None else msgspec.Raw(edited.encode()),
    }


def _line(text: str) -> str:
    """Return the text on one line of limited length."""
    return " ".join(text.split())[:300]
