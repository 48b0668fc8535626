"""Schedules drawn from seeds: whatever happens in whichever order, the judge finds nothing, and all comes to rest."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate

CHUNK = 25
CHUNKS = 4

FOUND = {
    19: "what a forgotten track held kept a full feed from ever connecting again",
    168: "a listener that knew a lost future of a journal moved the cursor back behind what retention had cut",
}
"""Seeds that found a fault of ours, kept for good."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_keeps_the_promise_and_comes_to_rest(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        assert simulate(draw_schedule(seed)).violations == [], f"seed {seed}"


@pytest.mark.parametrize("seed", FOUND, ids=FOUND.values())
def test_what_was_found_stays_mended(seed: int) -> None:
    assert simulate(draw_schedule(seed)).violations == []


def test_a_run_is_a_function_of_its_schedule() -> None:
    runs = [simulate(draw_schedule(11), told=True) for _ in range(2)]
    assert runs[0].steps == runs[1].steps
    assert [line for line in runs[0].history if "0x" not in line] == [
        line for line in runs[1].history if "0x" not in line
    ]
