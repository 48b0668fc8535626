"""When the holder of a lease is dead: its counter has stood still for too long on the observer's clock.

A holder moves a counter in Redis under its token. Only its *change* counts, and only the observer's monotonic
clock measures the time between changes, so no wall clock and no Redis expiry decides over life and death.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

QUARANTINE_AFTER_TAKEOVERS = 2
"""An event rescued so often is a suspect: it may be what its holders died of, and is attempted alone."""


def is_quarantined(takeovers: int) -> bool:
    """Whether an event that was rescued so often is to be attempted alone."""
    return takeovers >= QUARANTINE_AFTER_TAKEOVERS


class LeaseOwners:
    """What one listener knows of the others whose leases it waits for."""

    __slots__ = ("_dead_after_s", "_seen")

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._seen: dict[str, tuple[int | None, float]] = {}

    def emit(self, counters: Mapping[str, int | None], asked_s: float, answered_s: float) -> list[str]:
        """Take in the counters (None: Redis has none); returns the tokens that are dead.

        They were read at some time from `asked_s` to `answered_s`. These may be far apart: the observer itself may
        have been stopped, or held up, with the answer unread. A token seen for the first time is alive. Tokens no
        longer asked about are forgotten.
        """
        seen = {}
        for token, counter in counters.items():
            before = self._seen.get(token)
            seen[token] = before if before is not None and before[0] == counter else (counter, answered_s)
        self._seen = seen
        # rule: a heartbeat is as old as the question, not the answer
        return [token for token, (_, since_s) in seen.items() if asked_s - since_s >= self._dead_after_s]

    def forget(self, tokens: Iterable[str]) -> None:
        """Start anew with these: what stood still may have been the observer or Redis itself."""
        for token in tokens:
            self._seen.pop(token, None)
