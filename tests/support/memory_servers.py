"""PostgreSQL and Redis in memory, which a test can make fail, and the two gates in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from oncecast.core.clock import Clock
from oncecast.core.errors import Unavailable
from oncecast.core.telemetry import TelemetryEvent
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.testing.memory import MemoryEvents, MemoryLeases, MemoryPostgres, MemoryRedis
from oncecast.testing.memory.call import Act, at_once

LEASE_TTL_S = 30.0
MARK_TTL_S = 600.0
PROBE_INTERVAL_S = 2.0
REFUSED = Unavailable("connection refused")


class Link:
    """A connection to a server. Each call returns at once unless the test sets an error."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        """The error that every call raises."""
        self.next_errors: list[Exception | None] = []
        """The errors that the next calls raise, one each."""
        self.is_silent = False
        """Whether calls hang."""

    async def call(self, act: Act) -> Any:
        """Run `act` on the server, or fail or hang as the test has set."""
        self.calls += 1
        if self.is_silent:
            await asyncio.Event().wait()
        error = self.next_errors.pop(0) if self.next_errors else self.error
        if error is not None:
            raise error
        return await at_once(act)


class MemoryServers:
    """The servers that the listeners of a group share, and the gates of one listener, `a`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.telemetry_events: list[TelemetryEvent] = []
        self.postgres, self.to_postgres = MemoryPostgres(), Link()
        self.redis, self.to_redis = MemoryRedis(clock.monotonic_s), Link()
        self.pauses = 0
        self.events = MemoryEvents(self.postgres, instance="a", token="a", call=self.to_postgres.call)
        self.leases = self.lease_gate(MemoryLeases)
        self.other_leases = MemoryLeases(self.redis, token="b", lease_ttl_s=LEASE_TTL_S, mark_ttl_s=MARK_TTL_S)
        self.database = self.database_gate(self.events)

    def lease_gate(self, kind: Callable[..., MemoryLeases]) -> LeaseGate:
        """A gate in front of leases of this kind."""
        leases = kind(self.redis, token="a", lease_ttl_s=LEASE_TTL_S, mark_ttl_s=MARK_TTL_S, call=self.to_redis.call)
        return LeaseGate(leases, self.clock, lease_ttl_s=LEASE_TTL_S, record=self.telemetry_events.append)

    def database_gate(self, events: MemoryEvents) -> DatabaseGate:
        """A gate in front of these events."""
        return DatabaseGate(
            events,
            self.clock,
            probe_interval_s=PROBE_INTERVAL_S,
            paused=self._pause,
            record=self.telemetry_events.append,
        )

    def _pause(self) -> None:
        self.pauses += 1
