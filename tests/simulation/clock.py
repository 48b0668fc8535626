"""A clock whose time, random numbers and tokens are determined by the seed of a run."""

from __future__ import annotations

import random

from tests.simulation.loop import VirtualLoop

WALL_BEGINS_S = 1_700_000_000.0


class VirtualClock:
    """A Clock in the virtual time of `loop`; its random numbers come from `seed`."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.jumped_s = 0.0
        """The offset of the wall clock after jumps."""
        self.monotonic_s = loop.time
        self.sleep = loop.sleep
        self.random = random.Random(seed).random
        self._tokens = random.Random(seed)

    def unix_s(self) -> float:
        return WALL_BEGINS_S + self.monotonic_s() + self.jumped_s

    def new_token(self, size_bytes: int, /) -> str:
        return f"{self._tokens.getrandbits(8 * size_bytes):0{2 * size_bytes}x}"
