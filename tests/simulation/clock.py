"""Clocks, chance and names that come from a run alone."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oncecast.journal import memory
from tests.simulation.loop import VirtualLoop

WALL_BEGINS_S = 1_700_000_000.0


@contextmanager
def instead_of_the_worlds(loop: VirtualLoop, seed: int, jumped_s: Callable[[], float]) -> Iterator[None]:
    """`jumped_s()` is how far the wall clock has jumped."""
    names = random.Random(seed)
    before = (time.monotonic, time.time, memory.time_ns, secrets.token_hex, random.getstate())

    def wall_s() -> float:
        return WALL_BEGINS_S + loop.time() + jumped_s()

    time.monotonic, time.time = loop.time, wall_s  # type: ignore[assignment]
    memory.time_ns = lambda: int(wall_s() * 1e9)  # type: ignore[assignment]
    secrets.token_hex = lambda n=8: f"{names.getrandbits(8 * (n or 8)):0{2 * (n or 8)}x}"  # type: ignore[assignment]
    random.seed(seed)
    try:
        yield
    finally:
        time.monotonic, time.time, memory.time_ns, secrets.token_hex = before[:4]  # type: ignore[assignment]
        random.setstate(before[4])
