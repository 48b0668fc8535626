"""Conflicts on a MemoryPostgres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from oncecast.core.conflicts import ConflictState
from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.errors import IdentityTaken, InvalidPageMark
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import conflict_to_replay
from oncecast.event import Event
from oncecast.testing.memory.call import at_server
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import BEGINNING, StoredRow, stored_row

_BEGINNING = BEGINNING.isoformat().replace("+00:00", "Z")


class MemoryConflicts(Client):
    """Conflicts in memory; they have no age, and are listed in the order in which they were kept."""

    async def newest(
        self,
        *,
        limit: int,
        state: ConflictState = "open",
        after: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a page of conflicts, newest first."""
        if after is not None and not after.isdigit():
            raise InvalidPageMark("not the mark of a page")

        def newest() -> list[dict[str, Any]]:
            numbered = enumerate(self._tables.conflicts.items())
            shown = [
                {**self._shown(*kept), "mark": str(n)} for n, kept in numbered if after is None or n < int(after)
            ]
            chosen = [
                row
                for row in reversed(shown)
                if self._state(Cursor.parse(row["cursor"])) == state
                and source in (None, row["source"])
                and id in (None, row["id"])
            ]
            return chosen[:limit]

        return await self._do(newest)

    @at_server
    def get(self, place: Cursor) -> dict[str, Any] | None:
        """Return one conflict with both contents; None without one."""
        found = self._find(place)
        if found is None:
            return None
        key, raw = found
        row = self._tables.rows.get(key[0])
        return {**self._shown(key, raw), "event": msgspec.Raw(raw), "row": None if row is None else _of(row)}

    @at_server
    def discard(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Discard open conflicts; return those."""
        chosen = {
            place
            for place in places
            if self._find(place) and self._state(place) == "open" and not self._server.is_locked(_lock(place))
        }
        self._tables.closed_conflicts |= dict.fromkeys(chosen)
        return chosen

    @at_server
    def restore(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Reopen discarded conflicts; return those."""
        chosen = {place for place in places if self._state(place) == "discarded"}
        for place in chosen:
            del self._tables.closed_conflicts[place]
        return chosen

    async def replay(self, place: Cursor, new_id: str, work: ReplayWork) -> bool:
        """Process the event of an open conflict as `new_id`."""
        session = self._server.begin(self._token)

        async def store() -> Arrival | None:
            await self._server.lock(session, [_lock(place)])
            found = self._find(place)
            if found is None or self._state(place) != "open":
                return None
            arrival = conflict_to_replay(found[1], new_id, place=place, journal="", at_us=0)
            await self._server.lock(session, [arrival.identity])
            if arrival.identity in self._tables.rows:
                raise IdentityTaken(f"{arrival.source} already has an event {new_id!r}")
            session.rows[arrival.identity] = stored_row(arrival, self._instance)
            session.closed_conflicts[place] = new_id
            return arrival

        return await self._replay(session, store, work)

    def _find(self, place: Cursor) -> tuple[tuple[str, str, int], bytes] | None:
        kept = self._tables.conflicts.items()
        return next(((key, raw) for key, raw in kept if Cursor(key[1], key[2]) == place), None)

    def _state(self, place: Cursor) -> ConflictState:
        closed = self._tables.closed_conflicts
        if place not in closed:
            return "open"
        return "discarded" if closed[place] is None else "replayed"

    def _shown(self, key: tuple[str, str, int], raw: bytes) -> dict[str, Any]:
        identity, epoch, offset = key
        source, _, id_ = identity.partition("\0")
        place = Cursor(epoch, offset)
        state = self._state(place)
        return {
            "cursor": str(place),
            "source": source,
            "id": id_,
            "type": Event.from_json(raw).type,
            "journal": "",
            "listener": self._instance,
            "replayed_as": self._tables.closed_conflicts.get(place),
            "seen_at": _BEGINNING,
            "replayed_at": _BEGINNING if state == "replayed" else None,
            "discarded_at": _BEGINNING if state == "discarded" else None,
        }


def _lock(place: Cursor) -> str:
    return f"conflict {place}"


def _of(row: StoredRow) -> dict[str, Any]:
    return {"status": row.status, "stored_at": _BEGINNING, "cursor": f"{row.epoch}:{row.offset}"}
