"""The Deaths of `core.ports` on a MemoryPostgres."""

from __future__ import annotations

from oncecast.core.event import Arrival
from oncecast.testing.memory.client import Client


class MemoryDeaths(Client):
    """See Deaths."""

    async def begin_running(self) -> bool:
        """See Deaths."""

        def begin() -> bool:
            if self._instance not in self._tables.running:
                self._tables.running.add(self._instance)
                return False
            for (identity, listener), (attempting, deaths) in list(self._tables.suspects.items()):
                if listener == self._instance and attempting:
                    self._tables.suspects[identity, listener] = (False, deaths + 1)
            return True

        in_doubt: bool = await self._do(begin)
        return in_doubt

    async def end_running(self) -> None:
        """See Deaths."""
        await self._do(lambda: self._tables.running.discard(self._instance))

    async def accuse(self, arrival: Arrival) -> int:
        """See Deaths."""

        def accuse() -> int:
            for (identity, who), (_, n) in list(self._tables.suspects.items()):
                if who == self._instance:  # that it was acquitted may never have arrived here
                    self._tables.suspects[identity, who] = (False, n)
            deaths = {
                who: n for (identity, who), (_, n) in self._tables.suspects.items() if identity == arrival.identity
            }
            self._tables.suspects[arrival.identity, self._instance] = (True, deaths.get(self._instance, 0))
            return sum(deaths.values())

        died: int = await self._do(accuse)
        return died

    async def acquit(self, arrival: Arrival) -> None:
        """See Deaths."""
        await self._do(lambda: self._tables.suspects.pop((arrival.identity, self._instance), None))
