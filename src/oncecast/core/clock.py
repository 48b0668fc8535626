"""The port for time and randomness: services take both from a `Clock` and from nothing else.

So a test can set the time, and a simulated run depends on its seed only, without patching any module. Deadlines of
asyncio (`timeout`, `call_later`) need no clock: they use the time of their event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The source of time, delays, random numbers and tokens for a process."""

    def monotonic_s(self) -> float:
        """Return the seconds on a clock that never goes back; only the difference of two readings has a meaning."""

    def unix_s(self) -> float:
        """Return the wall time in seconds since 1970 (UTC); it may jump in either direction."""

    def sleep(self, delay_s: float, /) -> Awaitable[None]:
        """Suspend the current task for `delay_s` seconds; 0 lets every task run that is ready."""

    def random(self) -> float:
        """Return a random number in [0, 1), for jitter; it may be predictable."""

    def new_token(self, size_bytes: int, /) -> str:
        """Return `size_bytes` unpredictable random bytes in hexadecimal."""


def unix_us(clock: Clock) -> int:
    """Return the wall time in microseconds since 1970 (UTC)."""
    return int(clock.unix_s() * 1e6)


def utc_now(clock: Clock) -> datetime:
    """Return the wall time as a datetime in UTC."""
    return datetime.fromtimestamp(clock.unix_s(), UTC)
