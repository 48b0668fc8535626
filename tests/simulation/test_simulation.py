"""Some thousands of schedules in virtual time; `make simulate` runs any number."""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.changes import PACKAGE, changed, markers
from tests.simulation.faults import Action
from tests.simulation.mutants import place_of
from tests.simulation.planted import MUTANTS, Mutant
from tests.simulation.schedule import draw_schedule
from tests.simulation.world import simulate

ROOT = Path(__file__).parents[2]
CHUNK = 125
CHUNKS = 20
FOUND = {
    33: "a full feed never reconnected, because of the events of a superseded track",
    137: "a group was forgotten before it had saved a cursor, and what it missed was no gap",
    87: "a listener with a divergent history of a journal moved the cursor back behind what retention had deleted",
    2074: "events behind an abandoned ordered event continued, and overtook",
    2599: "an ordered event became a dead letter before the previous one had its row again",
    107305: "a quarantine record whose answer was lost remained while its process crashed for another reason",
    88380: "an event that crashes its process, marked before PostgreSQL lost its row, ran without a lease",
    29851: "the row of an event that was published twice stood for the events between its places",
    31464: "a cancelled attempt left its session with all locks in the memory server",
    6391: "an event behind an ordered event that became a dead letter too early overtook",
}
"""Seeds that found a fault of Oncecast, kept as regression tests."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_keeps_the_promise_and_comes_to_rest(chunk: int) -> None:
    command = ["tests.simulation", "--runs", str(CHUNK), "--first", str(chunk * CHUNK), "--workers", "1"]
    ended = _run("-m", *command)
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["violated by: none"]), ended.stderr


@pytest.mark.parametrize("seed", FOUND, ids=FOUND.values())
def test_faults_that_were_found_stay_fixed(seed: int) -> None:
    ended = _run("-m", "tests.simulation", "--json", "--seed", str(seed))
    assert json.loads(ended.stdout) == {"seed": seed, "violations": []}


@pytest.mark.parametrize("seed", [95, 190, 354])
def test_two_divergent_histories_of_a_journal_do_not_move_the_cursor_back_and_forth(seed: int) -> None:
    """A copy is made, the producer crashes and reopens the journal, and then the copy replaces it."""
    ended = _run("-c", f"from tests.simulation.test_simulation import two_futures; print(two_futures({seed}))")
    assert ended.stdout == "[]\n"


def test_a_run_depends_only_on_its_schedule() -> None:
    """Twice in one process, and once in another."""
    code = "from tests.simulation.test_simulation import histories; print(histories(), histories())"
    outputs = [_run("-c", code, hash_seed=hash_seed).stdout.split() for hash_seed in ("0", "1")]
    assert outputs[0] == outputs[1] == [outputs[0][0]] * 2


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule} ({mutant.folder or 'anywhere'})")
def test_every_planted_fault_has_its_place_in_the_code(mutant: Mutant) -> None:
    place = place_of(mutant)
    text, planted = place.path.read_text("utf-8"), changed(place, mutant.change)
    if place.path.suffix == ".py":
        text = ast.unparse(ast.parse(text))
        compile(planted, place.path, "exec")
    assert planted != text
    assert mutant.by is None or (ROOT / mutant.by.partition("::")[0]).is_file()


def test_every_rule_marker_has_its_place_in_the_code_and_one_planted_fault() -> None:
    stated = {(marker.path, marker.line, marker.rule) for marker in markers()}
    places = [(place.path, place.line, place.rule) for place in map(place_of, MUTANTS)]
    assert len(places) == len(set(places))
    assert stated == set(places)
    comments = [path.read_text("utf-8") for path in PACKAGE.rglob("*") if path.suffix in (".py", ".sql", ".lua")]
    assert sum(len(re.findall(r"(?:#|--) *rule:", text, re.IGNORECASE)) for text in comments) == len(stated)


def two_futures(seed: int) -> list[str]:
    """Return the violations where listeners see two epochs that both follow the same one."""
    gc.disable()
    schedule, draw = draw_schedule(seed), random.Random(seed)
    at_s = draw.uniform(3, 8)
    restored = Action(round(at_s, 3), "journal restored from a copy", 0, round(draw.uniform(1, 4), 3))
    crash = Action(round(at_s + 0.2, 3), "producer crash", 0, round(draw.uniform(0.001, 1), 3))
    publications = tuple((at_s, 0, ids) for at_s, _, ids in schedule.publications)
    schedule = replace(schedule, listeners=3, producers=1, actions=(restored, crash), publications=publications)
    return simulate(schedule).violations


def histories() -> str:
    """Return the histories of some schedules as one hash, without memory addresses."""
    gc.disable()
    lines = [line for seed in range(12) for line in simulate(draw_schedule(seed), history=True).history]
    return hashlib.sha256("\n".join(line for line in lines if "0x" not in line).encode()).hexdigest()


def _run(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    """Run in a separate process: vanished tasks must not be cleaned up during other tests."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
