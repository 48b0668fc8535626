"""Run many schedules on all cores, or one with its history.

--runs 20000     seeds from 0 on; prints progress and a summary
--seed 87        one seed: shrunk if it fails, with its history
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.faults import KINDS
from tests.simulation.many import end_without_cleaning_up, pool, run_chunk
from tests.simulation.schedule import draw_schedule
from tests.simulation.shrink import shrink
from tests.simulation.world import simulate

CHUNK = 25
ALL_KINDS_FROM_RUNS = 500
"""This number of runs injects every kind of fault; a kind that never occurs is an error of the simulation."""


def run_many(first: int, runs: int, workers: int, *, stop_at_first: bool) -> int:
    """Simulate and report; return 0 if no run violated an invariant."""
    chunks = [range(n, min(n + CHUNK, first + runs)) for n in range(first, first + runs, CHUNK)]
    steps, injected, violated, done = 0, Counter[str](), [], 0
    began_s = time.monotonic()
    console = Console(stderr=True, emoji=False)
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        pool(workers) as processes,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("schedules", total=runs)
        for chunk, (chunk_steps, chunk_injected, chunk_violated) in zip(
            chunks, processes.imap(run_chunk, chunks), strict=True
        ):
            steps, injected, done = steps + chunk_steps, injected + chunk_injected, done + len(chunk)
            for seed, violations in chunk_violated:
                violated.append(seed)
                console.print(f"seed {seed}: {'; '.join(violations)}", markup=False, highlight=False, soft_wrap=True)
                console.print(f"  make simulate SEED={seed}", highlight=False)
            bar.update(task, completed=done)
            if not console.is_terminal and done * 10 // runs > (done - len(chunk)) * 10 // runs:
                console.print(f"{done:,} of {runs:,} schedules", highlight=False)
            if violated and stop_at_first:
                break
        processes.terminate()
    never = [kind for kind in KINDS if not injected[kind]] if done >= ALL_KINDS_FROM_RUNS else []
    _close(done, steps, injected, violated, time.monotonic() - began_s)
    for kind in never:
        print(f"never came: {kind}")
    return 1 if violated or never else 0


def _close(runs: int, steps: int, injected: Counter[str], violated: Iterable[int], took_s: float) -> None:
    kinds = ", ".join(f"{kind} {injected[kind]:,}" for kind in KINDS)
    print(f"{runs:,} runs, {steps:,} steps in {took_s:.0f} s ({60 * runs / took_s:,.0f} a minute); faults: {kinds}")
    print(f"violated by: {', '.join(map(str, violated)) or 'none'}")


def run_one(seed: int, *, as_json: bool) -> int:
    """Run one schedule; if it fails, shrink it to the smallest that fails."""
    gc.disable()
    schedule = draw_schedule(seed)
    result = simulate(schedule)
    if as_json:
        print(json.dumps({"seed": seed, "violations": result.violations}))
        return 1 if result.violations else 0
    if result.violations:
        wrong = {violation.partition(":")[0] for violation in result.violations}

        def fails(smaller: object) -> bool:
            found = simulate(smaller).violations  # type: ignore[arg-type]
            return bool({violation.partition(":")[0] for violation in found} & wrong)

        schedule = shrink(schedule, fails)
        result = simulate(schedule, history=True)
    else:
        result = simulate(schedule, history=True)
    print("\n".join(result.history))
    print(f"{schedule.listeners} listeners, {schedule.producers} producers, {len(schedule.actions)} faults")
    print("; ".join(result.violations) or "nothing violated")
    return 1 if result.violations else 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stop-at-first", action="store_true")
    options = parser.parse_args()
    if options.seed is not None:
        end_without_cleaning_up(run_one(options.seed, as_json=options.json))
    many = partial(run_many, options.first, options.runs, options.workers)
    return many(stop_at_first=options.stop_at_first)


if __name__ == "__main__":
    sys.exit(main())
