"""Totals of a listener since its start, counted from its facts on their way to the observer."""

from __future__ import annotations

from collections import deque

from oncecast.core.clock import Clock
from oncecast.core.telemetry import Conflicts, Died, Duplicates, Fact, Observe, Persisted, ProcessingFailed, Received
from oncecast.core.wire import Failure

FAILURES_KEPT = 20
ERROR_SHOWN_LETTERS = 300
RATE_OVER_S = 0.9


class Tally:
    """Counts events by what became of them, remembers the newest failures, and passes every fact on."""

    def __init__(self, clock: Clock, observe: Observe) -> None:
        self._clock = clock
        self.received = 0
        self.stored = 0
        self.duplicates = 0
        self.dead = 0
        self.conflicts = 0
        self.failures: deque[Failure] = deque(maxlen=FAILURES_KEPT)
        self._observe = observe
        self._rate = 0.0
        self._rated_at_s = self._clock.monotonic_s()
        self._rated_stored = 0

    def observe(self, fact: Fact) -> None:
        """Count one fact."""
        match fact:
            case Received():
                self.received += fact.count
            case Persisted():
                self.stored += fact.count
            case Duplicates():
                self.duplicates += fact.count
            case Conflicts():
                self.conflicts += fact.count
            case Died():
                self.dead += 1
            case ProcessingFailed():
                self.failures.append(
                    Failure(
                        id=fact.id,
                        source=fact.source,
                        error=fact.error[:ERROR_SHOWN_LETTERS],
                        retries_left=fact.retries_left,
                        at=self._clock.unix_s(),
                    )
                )
        self._observe(fact)

    @property
    def rate(self) -> float:
        """Events stored a second, since this was asked about a second ago."""
        now_s = self._clock.monotonic_s()
        if now_s - self._rated_at_s >= RATE_OVER_S:
            self._rate = round((self.stored - self._rated_stored) / (now_s - self._rated_at_s), 1)
            self._rated_at_s, self._rated_stored = now_s, self.stored
        return self._rate
