"""What happens in a run, drawn from a seed: publications and faults, each with its time."""

from __future__ import annotations

import random
from dataclasses import dataclass

FAULTS_S = 25.0
"""So long faults come; then everything is healed, and has to come to rest."""
KINDS = (
    "crash",
    "freeze",
    "stop",
    "cut postgres",
    "cut redis",
    "cut producer",
    "lose answers",
    "postgres down",
    "postgres fails over",
    "redis down",
    "redis emptied",
    "producer crash",
    "producer freeze",
    "journal refuses",
    "journal restored",
    "journal skipped",
    "wall clock",
    "publish again",
    "publish otherwise",
    "replay",
)
TYPES = {"tick": 50, "counted": 25, "flaky": 8, "slow": 5, "failing": 4, "swallowing": 4, "killing": 1}


@dataclass(frozen=True, slots=True)
class Action:
    """`kind` happens at `at_s` for `length_s`, to the `which`-th of whom it can happen to."""

    at_s: float
    kind: str
    which: int
    length_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """All of a run but for the delays, which are drawn as it goes."""

    seed: int
    listeners: int
    producers: int
    publications: tuple[tuple[float, int, tuple[str, ...]], ...]
    """When, at which producer, and the ids of a batch; an id begins with its type."""
    actions: tuple[Action, ...]


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    draw = random.Random(seed)
    listeners, producers = draw.choice((2, 2, 3)), draw.choice((1, 1, 2))
    publications = []
    number = 0
    for _ in range(draw.randint(4, 12)):
        batch = draw.choices(list(TYPES), list(TYPES.values()), k=draw.randint(1, 8))
        ids = tuple(f"{type_}:{number + n}" for n, type_ in enumerate(batch))
        number += len(ids)
        publications.append((round(draw.uniform(0, FAULTS_S), 3), draw.randrange(producers), ids))
    actions = tuple(
        Action(
            round(draw.uniform(0.5, FAULTS_S), 3),
            draw.choice(KINDS),
            draw.randrange(6),
            round(draw.choice((draw.uniform(0.05, 2.0), draw.uniform(2.0, 12.0))), 3),
        )
        for _ in range(draw.randint(0, 9))
    )
    return Schedule(
        seed, listeners, producers, tuple(sorted(publications)), tuple(sorted(actions, key=lambda a: a.at_s))
    )
