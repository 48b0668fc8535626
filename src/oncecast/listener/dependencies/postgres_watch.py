"""Whether PostgreSQL answers and takes writes, known within three seconds whatever traffic there is.

It decides nothing about events: attempts, their tries and the pause go their own way. It reports an outage, and its
end, before the work has found out; see decision 041.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import EventStore
from oncecast.listener.dependencies.gates import DatabaseGate

CHECK_INTERVAL_S = 0.5
PING_S = 0.95
"""Between pings of an idle PostgreSQL: every second look. A ping costs each side five milliseconds of CPU."""
RETRY_INTERVAL_S = 0.1
"""After a ping that failed."""
TURN_S = 0.1
TURNS_MAX = 7
"""How many turns of the event loop a ping may take. However long a handler blocks the loop, that is one turn."""
DOWN_AFTER_S = 1.0
"""A shorter interruption is not reported: a restart of a pooler, a fail-over of an address."""


class DatabaseWatch:
    """Watches whether attempts end; if none does, pings PostgreSQL. Reports the result to `gate`.

    A ping makes a fresh connection, since a new one may be needed at any time, and reads, which leaves nothing in an
    idle server's log of writes. While an attempt waits for PostgreSQL, it writes.
    """

    def __init__(self, store: EventStore, gate: DatabaseGate, clock: Clock, *, turn_s: float = TURN_S) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._turn_s = turn_s
        self._failing_since_s: float | None = None
        self._pinged_at_s = 0.0
        self._late: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look twice a second."""
        try:
            while True:
                is_in_doubt = self._failing_since_s is not None and self._gate.fault is None
                await self._clock.sleep(RETRY_INTERVAL_S if is_in_doubt else CHECK_INTERVAL_S)
                await self.check()
        finally:
            for ping in self._late:
                ping.cancel()

    async def check(self) -> None:
        """Look once. It is an outage when pings, or all attempts and their retries, have failed for DOWN_AFTER_S.

        After an attempt has failed, pings decide until a retry has failed too.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._gate.ended_at_s < CHECK_INTERVAL_S:
            self._failing_since_s = None
            self._gate.report_up()
        elif error := self._gate.error_of_attempts(DOWN_AFTER_S):
            self._gate.report_down(error)
        elif self._failing_since_s is not None or self._gate.is_failing or now_s - self._pinged_at_s >= PING_S:
            self._pinged_at_s = now_s
            await self._check_by_ping(now_s)

    async def _check_by_ping(self, began_s: float) -> None:
        error = await self._ping(writes=self._gate.is_waited_for or self._gate.is_failing)
        if error is None:
            self._failing_since_s = None
            self._gate.report_up()
            return
        if self._failing_since_s is None:
            self._failing_since_s = began_s
        if self._clock.monotonic_s() - self._failing_since_s >= DOWN_AFTER_S:
            self._gate.report_down(error)

    async def _ping(self, *, writes: bool) -> Unavailable | None:
        """What is wrong, if anything is."""
        ping = asyncio.create_task(self._store.probe(writes=writes))
        try:
            for _ in range(TURNS_MAX):
                if (await asyncio.wait([ping], timeout=self._turn_s))[0]:
                    ping.result()
                    return None
        except RowLocked:
            return None  # it answers: somebody has the lock of a table
        except Unavailable as error:
            return error
        finally:
            if not ping.done():
                ping.cancel()
                self._late.add(ping)
                ping.add_done_callback(self._ended)
        return Unavailable(f"PostgreSQL: no answer within {TURNS_MAX * self._turn_s:g} s")

    def _ended(self, ping: asyncio.Task[None]) -> None:
        self._late.discard(ping)
        if not ping.cancelled():
            ping.exception()  # what it ended with, once it was too late, is nobody's concern
