"""Count the processes that died while they ran an event alone, for times when Redis cannot count.

PostgreSQL does the same in one statement each: `count_deaths`, `begin_isolated` and `end_isolated`. The conformance
suite compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class CrashCount(NamedTuple):
    """Whether one listener runs one event alone now, and how many of its processes died doing so."""

    is_running: bool
    deaths: int


CrashCounts: TypeAlias = Mapping[tuple[str, str], CrashCount]
"""Counts by the identity of the event and the name of the listener."""


def after_crash(counts: CrashCounts, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts after a process of `listener` crashed: the event that it ran alone is charged."""
    return {
        key: CrashCount(False, count.deaths + count.is_running) if key[1] == listener else count
        for key, count in counts.items()
    }


def begin_alone(counts: CrashCounts, identity: str, listener: str) -> tuple[dict[tuple[str, str], CrashCount], int]:
    """Return the counts once `listener` runs this event alone, and how many processes of the group died of it before.

    Marks any other event of the listener as not running: its `end_alone` may have been lost.
    """
    deaths = {name: count.deaths for (event, name), count in counts.items() if event == identity}
    ended = {key: CrashCount(False, count.deaths) if key[1] == listener else count for key, count in counts.items()}
    return {**ended, (identity, listener): CrashCount(True, deaths.get(listener, 0))}, sum(deaths.values())


def end_alone(counts: CrashCounts, identity: str, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts after `listener` has run this event and survived."""
    return {key: count for key, count in counts.items() if key != (identity, listener)}
