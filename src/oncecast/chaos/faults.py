"""Which faults come when: a plan drawn from a seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS = ("kill", "stop", "pause", "empty")
"""SIGKILL, SIGTERM and SIGSTOP, each with a return after a while; Valkey emptied."""
GAP_S = (1.0, 5.0)
LENGTH_S = (0.5, 8.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens to all of `targets` at `at_s` of the run, and is healed after `length_s`."""

    at_s: float
    kind: str
    targets: tuple[str, ...]
    length_s: float


def plan(seed: int, seconds: float, kinds: Sequence[str], processes: Mapping[str, Sequence[str]]) -> list[Fault]:
    """Faults for a run of `seconds`; `processes` are names by what they are: producers, listeners, servers.

    One, most or all processes of a sort at a time; some faults begin while another is not yet healed.
    """
    draw = random.Random(seed)
    faults: list[Fault] = []
    at_s = draw.uniform(*GAP_S)
    while at_s < seconds:
        kind = draw.choice(kinds)
        sort = draw.choice(sorted(processes))
        names = sorted(processes[sort])
        count = draw.choice((1, 1, 1, max(1, len(names) - 1), len(names)))
        targets = ("valkey",) if kind == "empty" else tuple(draw.sample(names, count))
        faults.append(Fault(round(at_s, 2), kind, targets, round(draw.uniform(*LENGTH_S), 2)))
        at_s += draw.uniform(*GAP_S)
    return faults
