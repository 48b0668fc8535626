"""The DeadLetters of `core.ports` on a MemoryPostgres."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival, Event
from oncecast.core.ports import ReplayWork
from oncecast.core.transaction import OpenTransaction
from oncecast.stores.memory.client import Client


class MemoryLetters(Client):
    """See DeadLetters; lists are short here, and in no order."""

    async def newest(self, *, limit: int, **filters: str | None) -> list[dict[str, Any]]:
        """See DeadLetters."""

        def newest() -> list[dict[str, Any]]:
            dead = (row for identity, row in self._tables.rows.items() if row.status == "dead")
            return [{"source": row.source, "id": row.id, "type": row.type} for row in dead][:limit]

        found: list[dict[str, Any]] = await self._do(newest)
        return found

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """See DeadLetters."""

        def get() -> dict[str, Any] | None:
            letter = self._tables.letters.get(f"{source}\0{id}")
            return None if letter is None else {"source": source, "id": id, "error": letter.error}

        found: dict[str, Any] | None = await self._do(get)
        return found

    async def mend(self, source: str, id: str, data: bytes) -> bool:
        """See DeadLetters."""

        def mend() -> bool:
            row, letter = self._tables.rows.get(f"{source}\0{id}"), self._tables.letters.get(f"{source}\0{id}")
            if row is None or letter is None or row.status != "dead":
                return False
            letter.mended = data
            return True

        mended: bool = await self._do(mend)
        return mended

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """See DeadLetters."""
        identity = f"{source}\0{id}"
        session = await self._do(lambda: self._server.begin(self._token))

        async def lock() -> Arrival | None:
            await self._server.lock(session, [identity])
            row = self._tables.rows.get(identity)
            if row is None or row.status != "dead":
                self._server.roll_back(session)
                return None
            letter = self._tables.letters[identity]
            raw = letter.raw
            if letter.mended is not None:
                mended = dataclasses.replace(Event.from_json(raw), raw_data=letter.mended, data_bytes=None)
                raw = mended.to_json()
            session.rows[identity] = dataclasses.replace(row, status="stored", listener=self._instance)
            return Arrival(
                track=None,
                offset=row.offset,
                at_us=0,
                id=id,
                source=source,
                type=row.type,
                raw=msgspec.Raw(raw),
                cost_bytes=0,
                attempts=row.attempts + 1,
                epoch=row.epoch,
                journal=row.journal,
            )

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
