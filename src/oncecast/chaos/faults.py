"""Plan the faults of a run from a seed, so that the run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

KINDS = {
    "kill": "processes",
    "stop": "processes",
    "pause": "processes",
    "cut": "links",
    "freeze": "links",
    "delay": "links",
    "reset": "links",
    "drop": "links",
    "empty": "valkey",
    "refuse": "valkey",
    "full": "journals",
    "restore": "journals",
}
"""The category of targets of each kind.

kill, stop, pause: SIGKILL, SIGTERM, SIGSTOP, with a restart or SIGCONT later. cut: connections closed and refused.
freeze: no bytes, one way or both. delay: all bytes late. reset: connections reset. drop: responses that confirm
something are lost. empty, refuse: Valkey flushed, or out of memory. full, restore: a journal that cannot grow, or is
replaced by an older copy.
"""
CRASH = "crash"
"""Published, not planned: events whose handler kills its process."""
LINUX_ONLY = frozenset(("full",))
INSTANT = frozenset(("empty", "reset"))
GAP_S = (1.0, 5.0)
LENGTH_S = (0.5, 8.0)
LONG_LENGTH_S = (10.0, 20.0)
LONG_ONE_IN = 12

Targets = Mapping[str, Mapping[str, Sequence[str]]]
"""Names by category ("processes") and by kind ("listeners"), as they are selected together."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of `kind` on all `targets`, injected at `at_s` of the run and cleared after `length_s`.

    `way` is the direction in which a frozen link carries nothing.
    """

    at_s: float
    kind: str
    targets: tuple[str, ...]
    length_s: float
    way: str = "both"


def plan(seed: int, seconds: float, kinds: Sequence[str], targets: Targets) -> list[Fault]:
    """Return faults for a run of `seconds`, each on one, most or all of a kind of target. Faults may overlap."""
    draw = random.Random(seed)
    faults: list[Fault] = []
    possible = [kind for kind in kinds if any(targets.get(KINDS[kind], {}).values())]
    at_s = draw.uniform(*GAP_S)
    while possible and at_s < seconds:
        faults.append(_fault(draw, at_s, draw.choice(possible), targets))
        at_s += draw.uniform(*GAP_S)
    return faults


def _fault(draw: random.Random, at_s: float, kind: str, targets: Targets) -> Fault:
    sorts = targets[KINDS[kind]]
    names = sorted(sorts[draw.choice(sorted(sort for sort in sorts if sorts[sort]))])
    count = draw.choice((1, 1, 1, max(1, len(names) - 1), len(names)))
    length_s = draw.uniform(*(LENGTH_S if draw.randrange(LONG_ONE_IN) else LONG_LENGTH_S))
    way = draw.choice(("up", "down", "both"))
    return Fault(
        round(at_s, 2),
        kind,
        tuple(draw.sample(names, count)),
        0.0 if kind in INSTANT else round(length_s, 2),
        way if kind == "freeze" else "both",
    )


def only(targets: Targets, wanted: Collection[str]) -> Targets:
    """Return the `targets` whose name or kind is in `wanted`."""
    return {
        what: {sort: [name for name in names if sort in wanted or name in wanted] for sort, names in sorts.items()}
        for what, sorts in targets.items()
    }
