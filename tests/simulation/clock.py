"""Clocks, chance and names that come from a run alone."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from oncecast.journal import memory
from tests.simulation.loop import VirtualLoop

WALL_BEGINS_S = 1_700_000_000.0


@contextmanager
def instead_of_the_worlds(loop: VirtualLoop, seed: int, jumped_s: Callable[[], float]) -> Iterator[None]:
    """`jumped_s()` is how far the wall clock has jumped."""
    names = random.Random(seed)

    def wall_s() -> float:
        return WALL_BEGINS_S + loop.time() + jumped_s()

    def token_hex(n: int = 8) -> str:
        return f"{names.getrandbits(8 * n):0{2 * n}x}"

    state = random.getstate()
    random.seed(seed)
    try:
        with (
            patch.object(asyncio, "sleep", loop.sleep),
            patch.object(time, "monotonic", loop.time),
            patch.object(time, "time", wall_s),
            patch.object(memory, "time_ns", lambda: int(wall_s() * 1e9)),
            patch.object(secrets, "token_hex", token_hex),
        ):
            yield
    finally:
        random.setstate(state)
