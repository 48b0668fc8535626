"""Schedules drawn from seeds: whatever happens in whichever order, the judge finds nothing, and all comes to rest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate

ROOT = Path(__file__).parents[2]
CHUNK = 40
CHUNKS = 6


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_keeps_the_promise_and_comes_to_rest(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        assert simulate(draw_schedule(seed)).violations == [], f"seed {seed}"


def test_a_run_is_a_function_of_its_schedule_whatever_python_hashes_to_what() -> None:
    """In this process twice, and in two others."""
    here = [_runs(), _runs()]
    there = [_elsewhere(hash_seed) for hash_seed in ("0", "1")]
    assert here == there == [here[0]] * 2


def _runs() -> str:
    """Of some schedules: every line of their histories, but for addresses in memory, as one number."""
    lines = [line for seed in range(12) for line in simulate(draw_schedule(seed), told=True).history]
    return hashlib.sha256("\n".join(line for line in lines if "0x" not in line).encode()).hexdigest()


def _elsewhere(hash_seed: str) -> str:
    code = "from tests.simulation.test_simulation import _runs; print(_runs())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True).strip()
