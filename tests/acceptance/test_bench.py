"""`oncecast bench` measures a stack of its own, and checks that nothing was lost or stored twice."""

from __future__ import annotations

import json
import subprocess
import sys

ONCECAST = [sys.executable, "-m", "oncecast"]


def test_a_quick_benchmark_prints_each_figure_beside_postgresql_alone() -> None:
    command = [*ONCECAST, "bench", "throughput", "--quick", "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    (figure,) = map(json.loads, printed.splitlines())
    assert (figure["what"], figure["unit"], len(figure["runs"])) == ("end to end, 240 B", "events/s", 1)
    assert figure["share"] == figure["median"] / figure["compared"][0]
    assert {"send", "producer", "listener-a", "listener-b", "valkey", "postgres"} == figure["cpu_us"].keys()


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    command = [*ONCECAST, "bench", "speed"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "there is no part 'speed': the parts are throughput, listeners" in refused.stderr
