"""Outbox on a MemoryPostgres."""

from __future__ import annotations

from itertools import accumulate

from oncecast.core.errors import EmissionRefused
from oncecast.core.ports import Publish
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import Session

AT_THE_OUTBOX = "the outbox"


class MemoryOutbox(Client):
    """Outbox in memory."""

    async def relay(self, publish: Publish, *, limit: int, max_bytes: int, within_s: float) -> int:
        """Publish due events and delete them once acknowledged; return their number."""
        session = self._server.begin(self._token)
        try:
            return await self._relay(session, publish, limit, max_bytes)
        finally:
            if not session.ended.is_set():
                self._server.abandon(session)

    async def _relay(self, session: Session, publish: Publish, limit: int, max_bytes: int) -> int:
        def due() -> list[tuple[int, bytes]]:
            outbox, due = self._tables.outbox, []
            if self._server.try_lock(session, AT_THE_OUTBOX):
                due = [(n, outbox[n]) for n in sorted(outbox) if n not in self._tables.refused][:limit]
            if not due:
                self._server.roll_back(session)
            sums = accumulate(len(event) for _, event in due)
            return due[: max(1, sum(size <= max_bytes for size in sums))]

        emissions = await self._do(due)
        if not emissions:
            return 0
        try:
            # rule: an emitted event leaves the outbox only when acknowledged
            await publish([event for _, event in emissions])
        except EmissionRefused as error:
            session.refused[emissions[error.index][0]] = str(error)
            await self._do(lambda: self._server.commit(session))
            raise
        session.relayed.extend(number for number, _ in emissions)
        await self._do(lambda: self._server.commit(session))
        return len(emissions)
