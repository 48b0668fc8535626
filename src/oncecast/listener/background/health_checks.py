"""The health checks of a listener, one per part, and their remedies; see `core.health`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from oncecast.core.clock import Clock, utc_now
from oncecast.core.health import FINE, PROCESS, Board, Check, Finding, Status
from oncecast.core.telemetry import DependencyLost, Disconnected, StartFailed, TelemetryEvent
from oncecast.listener.background.outbox_relay import Emissions
from oncecast.listener.background.standby import Standby
from oncecast.listener.dead_letters.forwarding import DEPENDENCY as BROKER
from oncecast.listener.dead_letters.forwarding import DeadLetterForwarder
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.feed.feed import Feed

DATABASE = "database"
START = "start"
REMEDIES = {
    DATABASE: "start PostgreSQL, or check DATABASE_URL; events wait until then, and are not lost",
    "redis": "start Redis, or check REDIS_URL; meanwhile every listener tries every event, and PostgreSQL decides",
    "producers": "start the producer, or check WS_URL; the listener reconnects automatically",
    BROKER: "start the broker, or check DEAD_LETTER_URL; dead letters wait in PostgreSQL",
    "outbox": "start a producer that accepts them, or check PUBLISH_TOKEN; emitted events wait in the table outbox",
    "standby": "start the release that has these handlers; or, if they were removed on purpose, set FORCE_HANDLERS=1",
}


class Troubles:
    """The last reasons why a producer or the broker was disconnected, and why the start was delayed."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def record(self, telemetry: TelemetryEvent) -> None:
        """Keep the reason that a telemetry event gives."""
        if isinstance(telemetry, Disconnected):
            self._reasons[telemetry.producer] = telemetry.reason
        elif isinstance(telemetry, DependencyLost):
            self._reasons[telemetry.name] = telemetry.error
        elif isinstance(telemetry, StartFailed):
            self._reasons[START] = telemetry.error

    def of(self, name: str, default: str) -> str:
        """Return the reason of a producer (by its shown URL), of the broker, or of START."""
        return self._reasons.get(name, default)


def board_of(
    clock: Clock,
    *,
    standby: Standby,
    draining: asyncio.Event,
    database: DatabaseGate,
    redis: LeaseGate,
    feeds: Sequence[Feed],
    emissions: Emissions,
    forwarder: DeadLetterForwarder | None,
    troubles: Troubles,
) -> Board:
    """Return the health board of a listener: down without PostgreSQL, degraded without any other part."""

    def process() -> Finding:
        if draining.is_set():
            return Finding(Status.DRAINING, "it is stopping: it finishes what has begun and takes nothing new")
        if standby.reason:
            return Finding(Status.DOWN, f"on standby: {standby.reason}", REMEDIES["standby"])
        if standby.allowed.is_set():
            return FINE
        trouble = troubles.of(START, "")
        return Finding(
            Status.DOWN, f"it is starting: {trouble}".rstrip(": "), REMEDIES[DATABASE] if trouble else None
        )

    def producers() -> Finding:
        lost = [feed for feed in feeds if not feed.connected]
        if not lost:
            return FINE
        reason = f"{len(lost)} of {len(feeds)} not connected: {troubles.of(lost[0].shown_url, 'it is connecting')}"
        status = Status.DOWN if len(lost) == len(feeds) else Status.DEGRADED
        return Finding(status, reason, REMEDIES["producers"])

    checks: dict[str, Check] = {
        PROCESS: process,
        DATABASE: lambda: _of(DATABASE, database.fault),
        "redis": lambda: _of("redis", redis.fault),
        "producers": producers,
        "outbox": lambda: _of("outbox", emissions.blocked),
    }
    if forwarder is not None:
        checks[BROKER] = lambda: _of(BROKER, None if forwarder.is_up else troubles.of(BROKER, "not reached yet"))
    return Board(checks, essential=(PROCESS, DATABASE), now=lambda: utc_now(clock))


def _of(name: str, fault: str | None) -> Finding:
    return FINE if fault is None else Finding(Status.DOWN, fault, REMEDIES[name])
