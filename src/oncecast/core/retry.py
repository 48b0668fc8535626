"""How long to wait before trying again: pure functions of the attempt's number and of a random number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `base_s` up to `max_s`."""

    base_s: float
    max_s: float

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Return the seconds to wait before `attempt` (2 or more).

        `jitter` in [0, 1) takes up to half of the wait away, so that many who lost the same peer do not come back
        in one instant.
        """
        doublings = min(attempt - 2, 32)  # beyond that every sensible max_s is reached; 2.0 ** 1100 would overflow
        return float(min(self.max_s, self.base_s * 2.0**doublings) * (1 - jitter / 2))


def jittered(interval_s: float, jitter: float) -> float:
    """Return 0.8 to 1.2 of `interval_s` for `jitter` in [0, 1), so that listeners of a group do not always meet."""
    return interval_s * (0.8 + (1.2 - 0.8) * jitter)
