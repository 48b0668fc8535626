"""The port for time and randomness: services get a `Clock` and ask nothing else for either.

So a test moves time by hand, and a simulation makes a run a function of its seed, without patching any module.
Deadlines of asyncio (`timeout`, `call_later`) need no clock: they go by the time of their event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a process gets the time, waits, random numbers and tokens."""

    def monotonic_s(self) -> float:
        """Return the seconds on a clock that never goes back; only the difference of two readings has a meaning."""

    def unix_s(self) -> float:
        """Return the wall time in seconds since 1970 (UTC); it may jump in either direction."""

    def sleep(self, delay_s: float, /) -> Awaitable[None]:
        """Suspend the current task for `delay_s`; 0 lets every other task run that is ready."""

    def random(self) -> float:
        """Return a random number in [0, 1), for jitter; anyone may guess it."""

    def new_token(self, size_bytes: int, /) -> str:
        """Return `size_bytes` random bytes in hexadecimal, which nobody can guess."""


def unix_us(clock: Clock) -> int:
    """Return the wall time in microseconds since 1970 (UTC)."""
    return int(clock.unix_s() * 1e6)


def utc_now(clock: Clock) -> datetime:
    """Return the wall time as a datetime in UTC."""
    return datetime.fromtimestamp(clock.unix_s(), UTC)
