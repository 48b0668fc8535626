"""Shrink a failing schedule as far as it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.schedule import Schedule

TRIES_MAX = 300


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Leave out faults, batches, events and processes one at a time, as long as `fails` returns true."""
    tries = 0
    while True:
        for smaller in _smaller(schedule):
            tries += 1
            if tries > TRIES_MAX:
                return schedule
            if fails(smaller):
                schedule = smaller
                break
        else:
            return schedule


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    for n in range(len(schedule.actions)):
        yield replace(schedule, actions=(*schedule.actions[:n], *schedule.actions[n + 1 :]))
    batches = schedule.publications
    for n in range(len(batches)):
        yield replace(schedule, publications=(*batches[:n], *batches[n + 1 :]))
    for n, (at_s, producer, ids) in enumerate(batches):
        for m in range(len(ids)):
            if len(ids) > 1:
                less = (at_s, producer, (*ids[:m], *ids[m + 1 :]))
                yield replace(schedule, publications=(*batches[:n], less, *batches[n + 1 :]))
    if schedule.listeners > 2:
        yield replace(schedule, listeners=schedule.listeners - 1)
