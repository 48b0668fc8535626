"""Plant faults in a copy of the code, each named after the rule that it breaks, and check that each is found.

    python -m tests.simulation.mutants [--runs 5000] [NAME…]

A fault is found by a violated invariant, the judge's verdict, a stall or a failed test, never by an error of the
change itself. At the end the unchanged code runs the same seeds and tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.changes import PACKAGE, Marker, changed, markers
from tests.simulation.planted import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
CHUNK_RUNS = 100
CHUNK_DEADLINE_S = 300.0
"""A run that takes longer is an endless loop."""


@dataclass(frozen=True, slots=True)
class Find:
    """What found a mutant after `after_runs` schedules: `by` is a violation or a test; None if nothing did."""

    mutant: Mutant
    after_runs: int | None
    by: str


def place_of(mutant: Mutant) -> Marker:
    """Return the marker of the mutant's rule; raise ValueError unless its folder has exactly one."""
    folder = PACKAGE / mutant.folder
    found = [marker for marker in markers() if marker.rule == mutant.rule and marker.path.is_relative_to(folder)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} markers of {mutant.rule!r} in {folder} (expected 1)")
    return found[0]


def seek(mutant: Mutant, runs: int) -> Find:
    """Search the mutant in a copy of the code by simulation, with up to `runs` schedules, or by its tests."""
    with tempfile.TemporaryDirectory(prefix="oncecast-mutant-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        place = place_of(mutant)
        planted = folder / "src/oncecast" / place.path.relative_to(PACKAGE)
        planted.write_text(changed(place, mutant.change), "utf-8")
        environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{ROOT}"}
        return _test(mutant, environment) if mutant.by else _simulate(mutant, runs, environment)


def _test(mutant: Mutant, environment: Mapping[str, str]) -> Find:
    try:
        ended = _run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(mutant.by)], environment
        )
    except subprocess.TimeoutExpired:
        return Find(mutant, 1, "stalled: its test does not end")
    failed = [line.partition(" - ")[0] for line in ended.stdout.splitlines() if line.startswith("FAILED ")]
    return Find(mutant, 1 if failed else None, failed[0].rpartition("::")[2] if failed else str(mutant.by))


def _simulate(mutant: Mutant, runs: int, environment: Mapping[str, str]) -> Find:
    for first in range(0, runs, CHUNK_RUNS):
        command = [sys.executable, "-m", "tests.simulation", "--runs", str(CHUNK_RUNS), "--workers", "1"]
        try:
            ended = _run([*command, "--first", str(first), "--stop-at-first"], environment)
        except subprocess.TimeoutExpired:
            return Find(mutant, first + CHUNK_RUNS, "stalled: it spins")
        violated = [line.removeprefix("seed ") for line in ended.stderr.splitlines() if line.startswith("seed ")]
        for seed, _, violations in (line.partition(": ") for line in violated):
            if " ended with " not in violations:
                return Find(mutant, int(seed) + 1, violations)
        if ended.returncode and not violated:
            raise SystemExit(f"{mutant.rule}: {ended.stderr[-2_000:]}")
    return Find(mutant, None, f"{runs} schedules")


def _run(
    command: list[str], environment: Mapping[str, str], deadline_s: float = CHUNK_DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=deadline_s
    )


def tell(find: Find) -> None:
    """Print a row of the table."""
    found = "NOT FOUND" if find.after_runs is None else "by a test" if find.mutant.by else f"run {find.after_runs:,}"
    print(f"{found:>10}  {find.mutant.rule:<74} {find.by:.120}", flush=True)


def passes_as_it_is(runs: int, tests: set[str]) -> bool:
    """Whether the unchanged code passes the same runs and tests."""
    commands = {f"{runs:,} schedules": ["tests.simulation", "--runs", str(runs)]}
    commands |= {test: ["pytest", "-q", "-p", "no:cacheprovider", test] for test in sorted(tests)}
    passed = True
    for name, command in commands.items():
        ended = _run([sys.executable, "-m", *command], os.environ, CHUNK_DEADLINE_S * max(1, runs / CHUNK_RUNS))
        passed &= ended.returncode == 0
        print(f"the code as it is: {name}: {ended.stdout.splitlines()[-1]}", flush=True)
    return passed


def main() -> int:
    """Search each mutant; return 0 if all were found, and nothing in the unchanged code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=5_000)
    options = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if not options.names or any(n in mutant.rule for n in options.names)]
    finds = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        for find in workers.map(lambda mutant: seek(mutant, options.runs), wanted):
            tell(find)
            finds.append(find)
    found = [find for find in finds if find.after_runs is not None]
    print(f"{len(found)} of {len(finds)} found")
    runs = max((find.after_runs or 0 for find in found), default=1)
    return 0 if passes_as_it_is(runs, {find.mutant.by for find in finds if find.mutant.by}) and found == finds else 1


if __name__ == "__main__":
    sys.exit(main())
