"""The circuit breaker: when to stop calling a dependency that is down, and when to try it again.

A pure state machine. The caller passes the monotonic time and reports the outcome of its calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class BreakerState(Enum):
    """`closed` lets calls pass, `open` none, `half-open` one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """A circuit breaker that opens after `threshold` failures in a row.

    While it is open, it lets one probe pass every `probe_interval_s` until one succeeds. A failure reported meanwhile
    changes nothing: that call began earlier.
    """

    threshold: int
    probe_interval_s: float
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    probe_at_s: float = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether calls pass freely."""
        return self.state is BreakerState.CLOSED

    def allows(self, now_s: float) -> bool:
        """Return whether a call may be made now. If the breaker is open and a probe is due, this call is it."""
        if self.state is BreakerState.OPEN and now_s >= self.probe_at_s:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> bool:
        """Report a call that succeeded; return whether that closed the breaker."""
        closed_now = self.state is not BreakerState.CLOSED
        self.state, self.failures = BreakerState.CLOSED, 0
        return closed_now

    def failed(self, now_s: float) -> bool:
        """Report a call that failed; return whether that opened the breaker (after a failed probe it stays open)."""
        self.failures += 1
        was_closed = self.state is BreakerState.CLOSED
        if was_closed and self.failures < self.threshold:
            return False
        if self.state is not BreakerState.OPEN:
            self.probe_at_s = now_s + self.probe_interval_s
        self.state = BreakerState.OPEN
        return was_closed
