"""The DeadLetters of `core.letter_ports` on a MemoryPostgres."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from oncecast.core.causes import cause_of, error_pattern
from oncecast.core.dead_letter_ports import Cause, Causes, ReplayWork
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.errors import InvalidPageMark, RowLocked, Unavailable
from oncecast.core.event import Arrival, Cursor
from oncecast.core.replays import dead_letter_to_replay
from oncecast.core.transaction import OpenTransaction
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import Letter, Row, row_of


class MemoryLetters(Client):
    """See DeadLetters."""

    async def newest(self, selection: Selection, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """See DeadLetters."""

        def newest() -> list[dict[str, Any]]:
            return [_shown(row, letter) for row, letter in self._chosen(selection, after)][:limit]

        found: list[dict[str, Any]] = await self._do(newest)
        return found

    async def read(
        self, selection: Selection, *, limit: int, after: str | None = None, max_bytes: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """See DeadLetters."""

        def read() -> tuple[list[dict[str, Any]], bool]:
            chosen, page, size_bytes = self._chosen(selection, after), [], 0
            for row, letter in chosen[:limit]:
                if size_bytes >= max_bytes:
                    break
                page.append(_whole(row, letter))
                size_bytes += len(letter.raw)
            return page, len(page) < len(chosen)

        found: tuple[list[dict[str, Any]], bool] = await self._do(read)
        return found

    async def causes(self, selection: Selection, *, limit: int) -> Causes:
        """See DeadLetters."""

        def count() -> Causes:
            by_cause: dict[str, list[tuple[Row, Letter]]] = defaultdict(list)
            chosen = self._chosen(selection, None)
            for row, letter in chosen:
                by_cause[cause_of(letter.error)].append((row, letter))
            causes = [_cause(cause, found) for cause, found in by_cause.items()]
            causes.sort(key=lambda cause: (cause.letters, cause.newest_at), reverse=True)
            return Causes(len(chosen), len(causes), causes[:limit])

        found: Causes = await self._do(count)
        return found

    def _chosen(self, selection: Selection, after: str | None) -> list[tuple[Row, Letter]]:
        if after is not None and not after.isdigit():
            raise InvalidPageMark("no mark of a page")
        tables = self._tables
        found = [
            (tables.rows[identity], letter)
            for identity, letter in tables.letters.items()
            if identity in tables.rows and (after is None or letter.number < int(after))
        ]
        found = [(row, letter) for row, letter in found if row.status == "dead" and _is_of(selection, row, letter)]
        return sorted(found, key=lambda both: both[1].number, reverse=True)

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """See DeadLetters."""

        def get() -> dict[str, Any] | None:
            found = self._dead(Identity(source, id))
            return None if found is None else _whole(*found)

        found: dict[str, Any] | None = await self._do(get)
        return found

    def _dead(self, letter: Identity) -> tuple[Row, Letter] | None:
        row = self._tables.rows.get("\0".join(letter))
        return None if row is None or row.status != "dead" else (row, self._tables.letters["\0".join(letter)])

    async def mend(self, source: str, id: str, data: bytes) -> bool:
        """See DeadLetters."""

        def mend() -> bool:
            found = self._dead(Identity(source, id))
            if found is None or found[1].discarded:
                return False
            if self._server.is_locked(f"{source}\0{id}"):
                raise RowLocked(f"another session has {id!r}")
            found[1].mended = data
            return True

        mended: bool = await self._do(mend)
        return mended

    async def discard(self, letters: Sequence[Identity]) -> set[Identity]:
        """See DeadLetters."""

        def discard(letter: Letter) -> bool:
            changes = not letter.discarded
            letter.discarded = True
            return changes

        return await self._change(letters, discard)

    async def restore(self, letters: Sequence[Identity]) -> set[Identity]:
        """See DeadLetters."""

        def restore(letter: Letter) -> bool:
            changes = letter.discarded
            letter.discarded = False
            return changes

        return await self._change(letters, restore)

    async def reset(self, letters: Sequence[Identity]) -> set[Identity]:
        """See DeadLetters."""

        def reset(letter: Letter) -> bool:
            if not letter.discarded:
                letter.mended = None
            return not letter.discarded

        return await self._change(letters, reset)

    async def _change(self, letters: Sequence[Identity], change: Callable[[Letter], bool]) -> set[Identity]:
        def run() -> set[Identity]:
            found = {
                letter: self._dead(letter) for letter in letters if not self._server.is_locked("\0".join(letter))
            }
            return {letter for letter, both in found.items() if both is not None and change(both[1])}

        changed: set[Identity] = await self._do(run)
        return changed

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """See DeadLetters."""
        identity = f"{source}\0{id}"
        session = self._server.begin(self._token)

        async def lock() -> Arrival | None:
            await self._server.lock(session, [identity])
            row = self._tables.rows.get(identity)
            # rule: a replay turns a dead letter into a stored event once
            if row is None or row.status != "dead":
                self._server.roll_back(session)
                return None
            letter = self._tables.letters[identity]
            if letter.discarded:
                self._server.roll_back(session)
                return None
            arrival = dead_letter_to_replay(
                Identity(source, id),
                letter.raw,
                letter.mended,
                type=row.type,
                attempts=row.attempts,
                place=Cursor(row.epoch, row.offset),
                journal=row.journal,
                at_us=0,
            )
            session.rows[identity] = row_of(arrival, self._instance)
            return arrival

        try:
            arrival: Arrival | None = await self._do(lock)
        except Unavailable:
            self._server.abandon(session)
            raise
        if arrival is None:
            return False

        async def run(tx: OpenTransaction) -> None:
            await work(arrival, tx)

        await self._finish(session, run)
        return True

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """See DeadLetters."""

        def note() -> None:
            if (letter := self._tables.letters.get(f"{source}\0{id}")) is not None:
                letter.error = f"{type(cause).__name__}: {cause}"
                letter.attempts += 1

        await self._do(note)


def _is_of(selection: Selection, row: Row, letter: Letter) -> bool:
    begins, type_ = selection.type_prefix, selection.type
    return all(
        (
            selection.discarded in (None, letter.discarded),
            not selection.ids or row.id in selection.ids,
            type_ in (None, row.type) if begins is None else row.type.startswith(begins),
            selection.source in (None, row.source),
            selection.error is None or selection.error.lower() in letter.error.lower(),
            selection.cause in (None, cause_of(letter.error)),
            selection.listener in (None, letter.listener),
            selection.since is None or _time(letter.died_at) >= _time(selection.since),
            selection.until is None or _time(letter.died_at) < _time(selection.until),
        )
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _shown(row: Row, letter: Letter) -> dict[str, Any]:
    return {
        "source": row.source,
        "id": row.id,
        "type": row.type,
        "error": letter.error,
        "cause": cause_of(letter.error),
        "attempts": letter.attempts,
        "listener": letter.listener,
        "died_at": letter.died_at,
        "mended": letter.mended is not None,
        "discarded_at": letter.died_at if letter.discarded else None,
        "mark": str(letter.number),
    }


def _whole(row: Row, letter: Letter) -> dict[str, Any]:
    return {
        **_shown(row, letter),
        "trace": letter.error,
        "event": msgspec.Raw(letter.raw),
        "mended_data": None if letter.mended is None else msgspec.Raw(letter.mended),
    }


def _cause(cause: str, found: list[tuple[Row, Letter]]) -> Cause:
    """Of letters, newest first, that died of it."""
    types = Counter(row.type for row, _ in found)
    row, newest = found[0]
    return Cause(
        cause=cause,
        error=error_pattern(newest.error),
        letters=len(found),
        types=sorted(types, key=lambda name: (-types[name], name))[:5],
        newest_at=newest.died_at,
        example=Identity(row.source, row.id),
    )
