"""A number of schedules, in a process of its own."""

from __future__ import annotations

import gc
from collections import Counter

from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate


def run_chunk(seeds: range) -> tuple[int, Counter[str], list[tuple[int, list[str]]]]:
    """Steps, faults by kind, and what was violated by which seed."""
    steps, injected, violated = 0, Counter[str](), []
    gc.disable()  # a run leaves many circles behind: they are collected once some are over
    gc.freeze()
    for seed in seeds:
        result = simulate(draw_schedule(seed))
        steps += result.steps
        injected += result.injected
        if result.violations:
            violated.append((seed, result.violations))
    gc.collect()
    return steps, injected, violated
