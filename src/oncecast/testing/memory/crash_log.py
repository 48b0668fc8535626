"""The CrashLog of `core.ports` on a MemoryPostgres."""

from __future__ import annotations

from oncecast.core.event import Arrival
from oncecast.testing.memory.client import Client


class MemoryCrashLog(Client):
    """See CrashLog."""

    async def register_process(self) -> bool:
        """See CrashLog."""

        def begin() -> bool:
            if self._instance not in self._tables.running:
                self._tables.running.add(self._instance)
                return False
            for (identity, listener), (attempting, deaths) in list(self._tables.quarantined.items()):
                if listener == self._instance and attempting:
                    self._tables.quarantined[identity, listener] = (False, deaths + 1)
            return True

        in_doubt: bool = await self._do(begin)
        return in_doubt

    async def unregister_process(self) -> None:
        """See CrashLog."""
        await self._do(lambda: self._tables.running.discard(self._instance))

    async def begin_isolated(self, arrival: Arrival) -> int:
        """See CrashLog."""

        def begin_isolated() -> int:
            for (identity, who), (_, n) in list(self._tables.quarantined.items()):
                if who == self._instance:  # that it was acquitted may never have arrived here
                    self._tables.quarantined[identity, who] = (False, n)
            deaths = {
                who: n for (identity, who), (_, n) in self._tables.quarantined.items() if identity == arrival.identity
            }
            self._tables.quarantined[arrival.identity, self._instance] = (True, deaths.get(self._instance, 0))
            return sum(deaths.values())

        died: int = await self._do(begin_isolated)
        return died

    async def end_isolated(self, arrival: Arrival) -> None:
        """See CrashLog."""
        await self._do(lambda: self._tables.quarantined.pop((arrival.identity, self._instance), None))
