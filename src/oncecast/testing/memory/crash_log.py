"""CrashLog on a MemoryPostgres."""

from __future__ import annotations

from oncecast.core.crash_counts import after_crash_of_listener, after_crash_of_owner, begin_alone, end_alone
from oncecast.core.event import Arrival
from oncecast.testing.memory.call import at_server
from oncecast.testing.memory.client import Client


class MemoryCrashLog(Client):
    """CrashLog in memory."""

    @at_server
    def register_process(self) -> bool:
        """Record the start of this process; return whether the previous one crashed."""
        if self._instance not in self._tables.running:
            self._tables.running.add(self._instance)
            return False
        self._tables.quarantined = after_crash_of_listener(self._tables.quarantined, self._instance)
        return True

    async def unregister_process(self) -> None:
        """Record that this process has ended in order."""
        await self._do(lambda: self._tables.running.discard(self._instance))

    @at_server
    def count_crash(self, token: str) -> None:
        """Charge the crash of the process with this token to the event that it ran alone."""
        self._tables.quarantined = after_crash_of_owner(self._tables.quarantined, token)

    @at_server
    def begin_isolated(self, arrival: Arrival) -> int:
        """Record that the event runs isolated; return how many processes crashed on it."""
        self._tables.quarantined, crashes = begin_alone(
            self._tables.quarantined, arrival.identity, self._instance, self._token
        )
        return crashes

    @at_server
    def end_isolated(self, arrival: Arrival) -> None:
        """Remove the record of the isolated event."""
        self._tables.quarantined = end_alone(self._tables.quarantined, arrival.identity, self._instance)
