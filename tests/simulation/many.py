"""A number of schedules, one after the other, in a process that is made for them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections import Counter
from multiprocessing.pool import Pool
from multiprocessing.util import Finalize
from typing import NoReturn

from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate

CHUNKS_OF_A_PROCESS = 16
"""Then another takes its place: see run_chunk."""


def pool(workers: int, chunks_of_a_process: int = CHUNKS_OF_A_PROCESS) -> Pool:
    """Processes for `run_chunk`."""
    context = multiprocessing.get_context("spawn")
    return context.Pool(workers, _begin_process, maxtasksperchild=chunks_of_a_process)


def _begin_process() -> None:
    Finalize(None, end_without_cleaning_up, args=(0,), exitpriority=0)


def end_without_cleaning_up(status: int) -> NoReturn:
    """End this process at once.

    Else what has vanished in its runs would be cleaned up after all, in loops that are closed, and would complain.
    """
    sys.stdout.flush()
    os._exit(status)


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
