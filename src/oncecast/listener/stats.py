"""Totals of a listener since its start, counted from its telemetry events."""

from __future__ import annotations

from collections import deque

from oncecast.core.clock import Clock
from oncecast.core.telemetry import (
    ConflictsFound,
    DeadLettered,
    Duplicates,
    Persisted,
    ProcessingFailed,
    Received,
    Record,
    TelemetryEvent,
)
from oncecast.core.wire import PublishFailure

FAILURES_KEPT = 20
ERROR_SHOWN_CHARS = 300
RATE_OVER_S = 0.9


class Stats:
    """Counts events by outcome, keeps the newest failures, and passes every telemetry event on."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self._clock = clock
        self.received = 0
        self.stored = 0
        self.duplicates = 0
        self.dead = 0
        self.conflicts = 0
        self.failures: deque[PublishFailure] = deque(maxlen=FAILURES_KEPT)
        self._record = record
        self._rate = 0.0
        self._rated_at_s = self._clock.monotonic_s()
        self._rated_stored = 0

    def record(self, telemetry: TelemetryEvent) -> None:
        """Count one telemetry event and pass it on."""
        match telemetry:
            case Received():
                self.received += telemetry.count
            case Persisted():
                self.stored += telemetry.count
            case Duplicates():
                self.duplicates += telemetry.count
            case ConflictsFound():
                self.conflicts += telemetry.count
            case DeadLettered():
                self.dead += 1
            case ProcessingFailed():
                self.failures.append(
                    PublishFailure(
                        id=telemetry.id,
                        source=telemetry.source,
                        error=telemetry.error[:ERROR_SHOWN_CHARS],
                        retries_left=telemetry.retries_left,
                        at=self._clock.unix_s(),
                    )
                )
        self._record(telemetry)

    @property
    def rate(self) -> float:
        """Return the events stored per second, measured over at least RATE_OVER_S."""
        now_s = self._clock.monotonic_s()
        if now_s - self._rated_at_s >= RATE_OVER_S:
            self._rate = round((self.stored - self._rated_stored) / (now_s - self._rated_at_s), 1)
            self._rated_at_s, self._rated_stored = now_s, self.stored
        return self._rate
