"""DeadLetters on a MemoryPostgres."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from oncecast.core.causes import cause_of, error_pattern
from oncecast.core.dead_letter_ports import Cause, Causes, Example, ReplayWork
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.errors import InvalidPageMark, RowLocked
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import dead_letter_to_replay
from oncecast.testing.memory.call import at_server
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import StoredDeadLetter, StoredRow, stored_row


class MemoryDeadLetters(Client):
    """DeadLetters in memory."""

    @at_server
    def newest(self, selection: Selection, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return a page of dead letters, newest first."""
        return [_shown(row, dead_letter) for row, dead_letter in self._chosen(selection, after)][:limit]

    @at_server
    def read(
        self, selection: Selection, *, limit: int, after: str | None = None, max_bytes: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return a page of whole dead letters, bounded by `max_bytes`."""
        chosen, page, size_bytes = self._chosen(selection, after), [], 0
        for row, dead_letter in chosen[:limit]:
            if size_bytes >= max_bytes:
                break
            page.append(_whole(row, dead_letter))
            size_bytes += len(dead_letter.raw)
        return page, len(page) < len(chosen)

    @at_server
    def causes(self, selection: Selection, *, limit: int) -> Causes:
        """Count the selected dead letters by cause."""
        by_cause: dict[str, list[tuple[StoredRow, StoredDeadLetter]]] = defaultdict(list)
        chosen = self._chosen(selection, None)
        for row, dead_letter in chosen:
            by_cause[cause_of(dead_letter.error)].append((row, dead_letter))
        causes = [_cause(cause, found) for cause, found in by_cause.items()]
        causes.sort(key=lambda cause: (cause.dead_letters, cause.newest_at), reverse=True)
        return Causes(len(chosen), causes[:limit], max(0, len(causes) - limit))

    def _chosen(self, selection: Selection, after: str | None) -> list[tuple[StoredRow, StoredDeadLetter]]:
        if after is not None and not after.isdigit():
            raise InvalidPageMark("not the mark of a page")
        tables = self._tables
        found = [
            (tables.rows[identity], dead_letter)
            for identity, dead_letter in tables.dead_letters.items()
            if identity in tables.rows and (after is None or dead_letter.number < int(after))
        ]
        found = [
            (row, dead_letter)
            for row, dead_letter in found
            if row.status == "dead" and _is_of(selection, row, dead_letter)
        ]
        return sorted(found, key=lambda both: both[1].number, reverse=True)

    @at_server
    def get(self, source: str, id: str) -> dict[str, Any] | None:
        """Return one whole dead letter, discarded or not."""
        found = self._dead(Identity(source, id))
        return None if found is None else _whole(*found)

    def _dead(self, dead_letter: Identity) -> tuple[StoredRow, StoredDeadLetter] | None:
        row = self._tables.rows.get("\0".join(dead_letter))
        return (
            None if row is None or row.status != "dead" else (row, self._tables.dead_letters["\0".join(dead_letter)])
        )

    @at_server
    def edit(self, source: str, id: str, data: bytes) -> bool:
        """Store edited data; return whether the dead letter exists and is not discarded."""
        found = self._dead(Identity(source, id))
        if found is None or found[1].discarded:
            return False
        if self._server.is_locked(f"{source}\0{id}"):
            raise RowLocked(f"another session has {id!r}")
        found[1].edited = data
        return True

    async def discard(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Discard dead letters; return those."""

        def discard(dead_letter: StoredDeadLetter) -> bool:
            changes = not dead_letter.discarded
            dead_letter.discarded = True
            return changes

        return await self._change(dead_letters, discard)

    async def restore(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Restore discarded dead letters; return those."""

        def restore(dead_letter: StoredDeadLetter) -> bool:
            changes = dead_letter.discarded
            dead_letter.discarded = False
            return changes

        return await self._change(dead_letters, restore)

    async def reset(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Remove the edited data of dead letters; return those."""

        def reset(dead_letter: StoredDeadLetter) -> bool:
            if not dead_letter.discarded:
                dead_letter.edited = None
            return not dead_letter.discarded

        return await self._change(dead_letters, reset)

    @at_server
    def _change(self, dead_letters: Sequence[Identity], change: Callable[[StoredDeadLetter], bool]) -> set[Identity]:
        found = {
            dead_letter: self._dead(dead_letter)
            for dead_letter in dead_letters
            if not self._server.is_locked("\0".join(dead_letter))
        }
        return {dead_letter for dead_letter, both in found.items() if both is not None and change(both[1])}

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """Process a dead letter again; return whether it is stored now."""
        identity = f"{source}\0{id}"
        session = self._server.begin(self._token)

        async def store() -> Arrival | None:
            await self._server.lock(session, [identity])
            row = self._tables.rows.get(identity)
            # rule: a replay turns a dead letter into a stored event once
            if row is None or row.status != "dead":
                return None
            dead_letter = self._tables.dead_letters[identity]
            if dead_letter.discarded:
                return None
            arrival = dead_letter_to_replay(
                Identity(source, id),
                dead_letter.raw,
                dead_letter.edited,
                type=row.type,
                attempts=row.attempts,
                place=Cursor(row.epoch, row.offset),
                journal=row.journal,
                at_us=0,
            )
            session.rows[identity] = stored_row(arrival, self._instance)
            return arrival

        return await self._replay(session, store, work)

    @at_server
    def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """Record the error of a failed replay."""
        if (dead_letter := self._tables.dead_letters.get(f"{source}\0{id}")) is not None:
            dead_letter.error = f"{type(cause).__name__}: {cause}"
            dead_letter.attempts += 1


def _is_of(selection: Selection, row: StoredRow, dead_letter: StoredDeadLetter) -> bool:
    begins, type_ = selection.type_prefix, selection.type
    return all(
        (
            selection.discarded in (None, dead_letter.discarded),
            not selection.ids or row.id in selection.ids,
            type_ in (None, row.type) if begins is None else row.type.startswith(begins),
            selection.source in (None, row.source),
            selection.error is None or selection.error.lower() in dead_letter.error.lower(),
            selection.cause in (None, cause_of(dead_letter.error)),
            selection.listener in (None, dead_letter.listener),
            selection.since is None or _time(dead_letter.died_at) >= _time(selection.since),
            selection.until is None or _time(dead_letter.died_at) < _time(selection.until),
        )
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _shown(row: StoredRow, dead_letter: StoredDeadLetter) -> dict[str, Any]:
    return {
        "source": row.source,
        "id": row.id,
        "type": row.type,
        "error": dead_letter.error,
        "cause": cause_of(dead_letter.error),
        "attempts": dead_letter.attempts,
        "listener": dead_letter.listener,
        "died_at": dead_letter.died_at,
        "edited": dead_letter.edited is not None,
        "discarded_at": dead_letter.died_at if dead_letter.discarded else None,
        "mark": str(dead_letter.number),
    }


def _whole(row: StoredRow, dead_letter: StoredDeadLetter) -> dict[str, Any]:
    return {
        **_shown(row, dead_letter),
        "trace": dead_letter.error,
        "event": msgspec.Raw(dead_letter.raw),
        "edited_data": None if dead_letter.edited is None else msgspec.Raw(dead_letter.edited),
    }


def _cause(cause: str, found: list[tuple[StoredRow, StoredDeadLetter]]) -> Cause:
    """Return the cause of dead letters, which are newest first."""
    types = Counter(row.type for row, _ in found)
    row, newest = found[0]
    return Cause(
        cause=cause,
        error=error_pattern(newest.error),
        dead_letters=len(found),
        types=sorted(types, key=lambda name: (-types[name], name))[:5],
        newest_at=newest.died_at,
        example=Example(row.source, row.id),
    )
