"""Run schedules one after the other in a separate process."""

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
"""After these chunks the process is replaced: see run_chunk."""


def pool(workers: int, chunks_of_a_process: int = CHUNKS_OF_A_PROCESS) -> Pool:
    """Return a pool of processes for `run_chunk`."""
    context = multiprocessing.get_context("spawn")
    return context.Pool(workers, _begin_process, maxtasksperchild=chunks_of_a_process)


def _begin_process() -> None:
    Finalize(None, end_without_cleaning_up, args=(0,), exitpriority=0)


def end_without_cleaning_up(status: int) -> NoReturn:
    """End this process at once.

    Otherwise, vanished tasks would be cleaned up in closed loops, and log errors.
    """
    sys.stdout.flush()
    os._exit(status)


def run_chunk(seeds: range) -> tuple[int, Counter[str], list[tuple[int, list[str]]]]:
    """Return the steps, the faults by kind, and the violations by seed.

    The garbage collector is off: it would run the `finally` blocks of vanished tasks. A run leaks about 1 MiB, so a
    process serves some hundreds of runs.
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
