"""Detect within three seconds whether PostgreSQL answers and accepts writes, with or without traffic.

The watch decides nothing about events. It reports an outage, and its end, before the attempts detect it; see
decision 041.
"""

from __future__ import annotations

import asyncio

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import DatabaseConnections
from oncecast.listener.dependencies.gates import DatabaseGate

CHECK_INTERVAL_S = 0.5
PING_S = 0.95
"""Between pings of an idle PostgreSQL: every second check. A ping costs each side five milliseconds of CPU."""
RETRY_INTERVAL_S = 0.1
"""After a failed ping."""
TURN_S = 0.1
TURNS_MAX = 7
"""The number of loop turns that a ping may take. A handler that blocks the loop takes one turn, however long."""
DOWN_AFTER_S = 1.0
"""Shorter interruptions are not reported, such as the restart of a pooler or the fail-over of an address."""


class DatabaseWatch:
    """Watches whether attempts succeed; if none does, pings PostgreSQL. Reports the result to `gate`.

    A ping uses a new connection, since one may be needed at any time, and only reads, which adds nothing to the WAL
    of an idle server. While an attempt waits for PostgreSQL, the ping writes.
    """

    def __init__(
        self, store: DatabaseConnections, gate: DatabaseGate, clock: Clock, *, turn_s: float = TURN_S
    ) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._turn_s = turn_s
        self._failing_since_s: float | None = None
        self._pinged_at_s = 0.0
        self._late: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Check every CHECK_INTERVAL_S."""
        try:
            while True:
                is_in_doubt = self._failing_since_s is not None and self._gate.fault is None
                await self._clock.sleep(RETRY_INTERVAL_S if is_in_doubt else CHECK_INTERVAL_S)
                await self.check()
        finally:
            for ping in self._late:
                ping.cancel()

    async def check(self) -> None:
        """Check once. It is an outage when pings, or all attempts and their retries, have failed for DOWN_AFTER_S.

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
        """Return the error of a ping, or None."""
        ping = asyncio.create_task(self._store.probe(writes=writes))
        try:
            for _ in range(TURNS_MAX):
                if (await asyncio.wait([ping], timeout=self._turn_s))[0]:
                    ping.result()
                    return None
        except RowLocked:
            return None  # PostgreSQL answers; another session holds a table lock
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
            ping.exception()  # retrieve it, or asyncio logs it; the result came too late to matter
