"""Count the processes that died while they ran an event alone.

PostgreSQL does the same in one statement each: `count_crash_of_listener`, `count_crash_of_owner`, `begin_isolated`
and `end_isolated`. The conformance suite compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class CrashCount(NamedTuple):
    """Which process of a listener runs one event alone now, by its token, and how many of them died doing so."""

    running: str | None
    deaths: int


CrashCounts: TypeAlias = Mapping[tuple[str, str], CrashCount]
"""Counts by the identity of the event and the name of the listener."""


def after_crash_of_listener(counts: CrashCounts, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts after the process of `listener` crashed: the event that it ran alone is charged."""
    return {key: _crashed(count) if key[1] == listener else count for key, count in counts.items()}


def after_crash_of_owner(counts: CrashCounts, token: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts after the process with this token crashed."""
    return {key: _crashed(count) if count.running == token else count for key, count in counts.items()}


def _crashed(count: CrashCount) -> CrashCount:
    # rule: a crash charges an event only if it was running
    return CrashCount(None, count.deaths + (count.running is not None))


def begin_alone(
    counts: CrashCounts, identity: str, listener: str, token: str
) -> tuple[dict[tuple[str, str], CrashCount], int]:
    """Return the counts once a process runs this event alone, and how many processes of the group died of it before.

    Marks any other event of the listener as not running: its `end_alone` may have been lost.
    """
    deaths = {name: count.deaths for (event, name), count in counts.items() if event == identity}
    ended = {key: CrashCount(None, count.deaths) if key[1] == listener else count for key, count in counts.items()}
    return {**ended, (identity, listener): CrashCount(token, deaths.get(listener, 0))}, sum(deaths.values())


def end_alone(counts: CrashCounts, identity: str, listener: str) -> dict[tuple[str, str], CrashCount]:
    """Return the counts after `listener` has run this event and survived."""
    return {key: count for key, count in counts.items() if key != (identity, listener)}
