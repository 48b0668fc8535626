"""What processes died of while Redis could not tell: who ran which event alone, and how often that was the end.

PostgreSQL does the same in one statement each: `count_deaths`, `accuse` and `acquit`. The conformance suite compares
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class CrashCount(NamedTuple):
    """Of one event and one listener: whether it runs the event alone, and how many of its processes died of it."""

    is_running: bool
    deaths: int


CrashCounts: TypeAlias = Mapping[tuple[str, str], CrashCount]
"""By the identity of the event and the name of the listener."""


def after_crash(counts: CrashCounts, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts once a process of `listener` has not ended in order: it died of what it ran alone."""
    return {
        key: CrashCount(False, count.deaths + count.is_running) if key[1] == listener else count
        for key, count in counts.items()
    }


def begin_alone(counts: CrashCounts, identity: str, listener: str) -> tuple[dict[tuple[str, str], CrashCount], int]:
    """Return the counts once `listener` runs this event alone, and how many processes of the group died of it so far.

    It runs no other any more: that another has ended may never have arrived here.
    """
    deaths = {name: count.deaths for (event, name), count in counts.items() if event == identity}
    ended = {key: CrashCount(False, count.deaths) if key[1] == listener else count for key, count in counts.items()}
    return {**ended, (identity, listener): CrashCount(True, deaths.get(listener, 0))}, sum(deaths.values())


def end_alone(counts: CrashCounts, identity: str, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts once `listener` has run this event, and lives."""
    return {key: count for key, count in counts.items() if key != (identity, listener)}
