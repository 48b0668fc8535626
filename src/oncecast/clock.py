"""The clock of the operating system."""

from __future__ import annotations

import asyncio
import random
import secrets
import time


class SystemClock:
    """The `Clock` that a process runs on, unless a test or a simulation brings its own.

    Its methods are the standard library's functions themselves: to call one costs nothing extra.
    """

    __slots__ = ()

    monotonic_s = staticmethod(time.monotonic)
    unix_s = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)
    random = staticmethod(random.random)
    new_token = staticmethod(secrets.token_hex)


SYSTEM_CLOCK = SystemClock()
"""It has no state: the default of the outermost constructors."""
