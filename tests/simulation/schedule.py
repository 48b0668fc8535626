"""The schedule of a run, drawn from a seed: publications and faults, each with its time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.simulation.application import KEYS, TYPES
from tests.simulation.faults import FAULTS, Action

FAULTS_S = (8.0, 16.0, 25.0)
"""Publications and faults start within this time; then all faults are cleared, and the run must come to rest."""
LENGTHS_S = ((0.05, 2.0), (0.05, 2.0), (2.0, 12.0), (2.0, 12.0), (12.0, 40.0))
PLAIN = 0.2
"""The share of runs without handlers, whose listeners decode only the ranges that they work on."""
FAMILIES = ("", "", "batched", "shared", "ordered", "ordered", "chained")
"""A publication has all types, or those with this prefix."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All of a run except delays, which are drawn during the run."""

    seed: int
    listeners: int
    producers: int
    publications: tuple[tuple[float, int, tuple[str, ...]], ...]
    """Time, producer, and the ids of a batch: `type:number`, or `type:key:number` of an ordered event."""
    actions: tuple[Action, ...]
    has_handlers: bool


def draw_schedule(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    draw = random.Random(seed)
    listeners, producers = draw.choice((2, 2, 3)), draw.choice((1, 1, 2))
    faults_s = draw.choice(FAULTS_S)
    publications = []
    number = 0
    has_handlers = random.Random(f"handlers of {seed}").random() >= PLAIN
    keys = KEYS[: draw.randint(1, len(KEYS))]
    for _ in range(draw.randint(4, 12)):
        family = draw.choice(FAMILIES) if has_handlers else "tick"
        shares = {type_: share for type_, share in TYPES.items() if type_.startswith(family)}
        batch = draw.choices(list(shares), list(shares.values()), k=draw.randint(1, 8))
        ids = tuple(_id(type_, number + n, draw.choice(keys)) for n, type_ in enumerate(batch))
        number += len(ids)
        publications.append((round(draw.uniform(0, faults_s), 3), draw.randrange(producers), ids))
    actions = tuple(
        Action(
            round(draw.uniform(0.5, faults_s), 3),
            draw.choice(list(FAULTS)),
            draw.randrange(6),
            round(draw.uniform(*draw.choice(LENGTHS_S)), 3),
        )
        for _ in range(draw.randint(0, 9))
    )
    return Schedule(
        seed,
        listeners,
        producers,
        tuple(sorted(publications)),
        tuple(sorted(actions, key=lambda a: a.at_s)),
        has_handlers,
    )


def _id(type: str, number: int, key: str) -> str:
    return f"{type}:{key}:{number}" if type.startswith("ordered") else f"{type}:{number}"
