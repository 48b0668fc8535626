"""How long events waited, and how much of that no fault explains. Pure functions; times are Unix seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

POSTGRES = "postgres"
RECONNECT_MAX_S = 30.0
"""The maximum time after a producer's fault before a listener reconnects."""

Span = tuple[float, float]
"""Start, end."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The process or link `name` did not work from `begin_s` to `end_s`."""

    name: str
    begin_s: float
    end_s: float


def stalls(events: Iterable[Span]) -> list[Span]:
    """Return when no event of a journal was stored although some waited; `events` are (accepted, stored) times."""
    by_stored = sorted(events, key=lambda event: event[1])
    oldest_waiting_s = float("inf")
    begins: list[float] = []
    for accepted_s, _ in reversed(by_stored):
        oldest_waiting_s = min(oldest_waiting_s, accepted_s)
        begins.append(oldest_waiting_s)
    before_s = 0.0
    found: list[Span] = []
    for (_, stored_s), waiting_since_s in zip(by_stored, reversed(begins), strict=True):
        found.append((max(before_s, waiting_since_s), stored_s))
        before_s = stored_s
    return found


def blocked(outages: Sequence[Outage], producer: str, listeners: Collection[str]) -> list[Span]:
    """Return when no event of `producer` could be stored: it, PostgreSQL or every listener had an outage."""

    def of(*names: str, after_s: float = 0.0) -> list[Span]:
        return [(outage.begin_s, outage.end_s + after_s) for outage in outages if outage.name in names]

    each = [
        merged([*of(name, link(name, POSTGRES)), *of(link(name, producer), after_s=RECONNECT_MAX_S)])
        for name in listeners
    ]
    everywhere = each[0] if each else []
    for spans in each[1:]:
        everywhere = _common(everywhere, spans)
    return merged([*of(POSTGRES), *of(producer, after_s=RECONNECT_MAX_S), *everywhere])


def unexplained_s(stall: Span, blocked: Sequence[Span]) -> float:
    """Return how much of `stall` is outside of `blocked`, which must be merged."""
    begin_s, end_s = stall
    explained_s = sum(max(0.0, min(end_s, end) - max(begin_s, begin)) for begin, end in blocked)
    return max(0.0, end_s - begin_s - explained_s)


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans without overlaps, in order."""
    result: list[Span] = []
    for begin_s, end_s in sorted(spans):
        if result and begin_s <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end_s))
        else:
            result.append((begin_s, end_s))
    return result


def link(one: str, other: str) -> str:
    """Return the name of the link from `one` to `other`."""
    return f"{one}>{other}"


def _common(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    pairs = ((max(a[0], b[0]), min(a[1], b[1])) for a in some for b in others)
    return merged((begin_s, end_s) for begin_s, end_s in pairs if begin_s < end_s)
