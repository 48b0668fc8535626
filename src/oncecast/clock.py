"""The clock of the operating system."""

from __future__ import annotations

import asyncio
import random
import secrets
import time


class SystemClock:
    """The `Clock` of a process outside tests and simulations.

    Its methods are the functions of the standard library themselves, so that a call costs nothing extra.
    """

    __slots__ = ()

    monotonic_s = staticmethod(time.monotonic)
    unix_s = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)
    random = staticmethod(random.random)
    new_token = staticmethod(secrets.token_hex)


SYSTEM_CLOCK = SystemClock()
"""A shared instance without state, the default of the outermost constructors."""
