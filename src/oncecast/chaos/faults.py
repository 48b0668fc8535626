"""Which faults come when: a plan drawn from a seed, so that a run can be had again."""

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
"""SIGKILL, SIGTERM and SIGSTOP, each with a return after a while. Connections ended and refused; nothing carried,
one way or both; everything late; connections reset; the answers that confirm something lost. Valkey emptied, or out
of memory. A journal that cannot grow, or is put back to an older copy. What each happens to."""
CRASH = "crash"
"""Not planned but published: events whose handler ends its process."""
LINUX_ONLY = frozenset(("full",))
INSTANT = frozenset(("empty", "reset"))
GAP_S = (1.0, 5.0)
LENGTH_S = (0.5, 8.0)
LONG_LENGTH_S = (10.0, 20.0)
LONG_ONE_IN = 12

Targets = Mapping[str, Mapping[str, Sequence[str]]]
"""Names by what they are ("processes") and by their sort ("listeners"): those that are hurt together."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens to all of `targets` at `at_s` of the run, and is healed after `length_s`.

    `way` is which direction a frozen link does not carry.
    """

    at_s: float
    kind: str
    targets: tuple[str, ...]
    length_s: float
    way: str = "both"


def plan(seed: int, seconds: float, kinds: Sequence[str], targets: Targets) -> list[Fault]:
    """Faults for a run of `seconds`: on one, most or all of a sort; some begin while another is not yet healed."""
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
    """Those of `targets` whose name or sort is in `wanted`."""
    return {
        what: {sort: [name for name in names if sort in wanted or name in wanted] for sort, names in sorts.items()}
        for what, sorts in targets.items()
    }
