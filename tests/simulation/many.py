"""A number of schedules, one after the other, in a process that is made for them."""

from __future__ import annotations

import gc
from collections import Counter

from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate


def run_chunk(seeds: range) -> tuple[int, Counter[str], list[tuple[int, list[str]]]]:
    """Steps, faults by kind, and what was violated by which seed.

    Garbage is not collected: that would run what stands in the `finally` of those who have vanished. It is about a
    MiB a run, so a process is good for some hundreds.
    """
    gc.disable()
    steps, injected, violated = 0, Counter[str](), []
    for seed in seeds:
        result = simulate(draw_schedule(seed))
        steps += result.steps
        injected += result.injected
        if result.violations:
            violated.append((seed, result.violations))
    return steps, injected, violated
