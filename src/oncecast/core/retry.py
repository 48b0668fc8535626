"""How long to wait before trying again: pure functions of the attempt's number."""

from __future__ import annotations


def backoff(attempt: int, *, base_s: float, max_s: float, jitter: float) -> float:
    """Seconds to wait before `attempt` (2 or more): base doubled each time, at most `max_s`.

    `jitter` in [0, 1) is drawn by the caller, so that this stays a pure function; it takes up to half of the
    wait away, so that many who lost the same peer do not come back in one instant.
    """
    doublings = min(attempt - 2, 32)  # beyond that every sensible max_s is reached; 2.0 ** 1100 would overflow
    return float(min(max_s, base_s * 2.0**doublings) * (1 - jitter / 2))
