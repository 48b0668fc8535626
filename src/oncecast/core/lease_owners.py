"""Decide when the owner of a lease is dead: its heartbeat has not changed for too long on the observer's clock.

A lease owner increments a counter in Redis. Only its *change* counts, and the observer's monotonic clock measures the
time between changes. So neither a wall clock nor an expiry in Redis can declare a process dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

QUARANTINE_AFTER_TAKEOVERS = 2
"""After this number of takeovers an event is quarantined: it may have crashed its lease owners, so it runs alone."""


def is_quarantined(takeovers: int) -> bool:
    """Return whether an event with this number of takeovers must run alone."""
    return takeovers >= QUARANTINE_AFTER_TAKEOVERS


class LeaseOwners:
    """The heartbeats of the listeners whose leases this listener waits for."""

    __slots__ = ("_dead_after_s", "_seen")

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._seen: dict[str, tuple[int | None, float]] = {}

    def observe(self, counters: Mapping[str, int | None], asked_s: float, answered_s: float) -> list[str]:
        """Record the counters (None: Redis has none), and return the tokens of dead owners.

        Redis read them between `asked_s` and `answered_s`, which may be far apart if the observer itself was stopped.
        A token seen for the first time is alive. Tokens missing from `counters` are forgotten.
        """
        seen = {}
        for token, counter in counters.items():
            before = self._seen.get(token)
            seen[token] = before if before is not None and before[0] == counter else (counter, answered_s)
        self._seen = seen
        # rule: a heartbeat is as old as the question, not the answer
        return [token for token, (_, since_s) in seen.items() if asked_s - since_s >= self._dead_after_s]

    def forget(self, tokens: Iterable[str]) -> None:
        """Forget these tokens: the observer or Redis itself may have been stopped."""
        for token in tokens:
            self._seen.pop(token, None)
