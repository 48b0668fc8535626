"""Delays before the next attempt: pure functions of the attempt's number and a random number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base_s` up to `max_s`."""

    base_s: float
    max_s: float

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Return the seconds to wait before `attempt` (2 or more).

        `jitter` in [0, 1) shortens the delay by up to half, so that many clients of one peer do not return at once.
        """
        doublings = min(attempt - 2, 32)  # every sensible max_s is reached by then; 2.0 ** 1100 would overflow
        return float(min(self.max_s, self.base_s * 2.0**doublings) * (1 - jitter / 2))


def jittered(interval_s: float, jitter: float) -> float:
    """Return 0.8 to 1.2 of `interval_s` for `jitter` in [0, 1), so that listeners do not stay synchronised."""
    return interval_s * (0.8 + (1.2 - 0.8) * jitter)
