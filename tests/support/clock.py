"""A clock that a test moves."""

from __future__ import annotations

from oncecast.clock import SystemClock


class ManualClock(SystemClock):
    """Both of its times stay at `now_s` until the test moves them; sleeping takes real time."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s
