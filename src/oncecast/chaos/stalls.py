"""How long events had to wait, and how much of that no fault accounts for. Pure; times are Unix seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

POSTGRES = "postgres"
RECONNECT_MAX_S = 30.0
"""So long after a producer's fault a listener may wait before it connects again."""

Span = tuple[float, float]
"""From, to."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The process or link `name` did not do its work from `begin_s` to `end_s`."""

    name: str
    begin_s: float
    end_s: float


def stalls(events: Iterable[Span]) -> list[Span]:
    """When nothing was stored of a journal though something waited; `events` are accepted and stored at."""
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


def blocked(hurts: Sequence[Outage], producer: str, listeners: Collection[str]) -> list[Span]:
    """When no event of `producer` could get anywhere: it, PostgreSQL, or every listener was out of the way."""

    def of(*names: str, after_s: float = 0.0) -> list[Span]:
        return [(hurt.begin_s, hurt.end_s + after_s) for hurt in hurts if hurt.name in names]

    each = [
        merged([*of(name, link(name, POSTGRES)), *of(link(name, producer), after_s=RECONNECT_MAX_S)])
        for name in listeners
    ]
    everywhere = each[0] if each else []
    for spans in each[1:]:
        everywhere = _common(everywhere, spans)
    return merged([*of(POSTGRES), *of(producer, after_s=RECONNECT_MAX_S), *everywhere])


def unexplained_s(stall: Span, blocked: Sequence[Span]) -> float:
    """What of `stall` lies outside of `blocked`, which is merged."""
    begin_s, end_s = stall
    explained_s = sum(max(0.0, min(end_s, end) - max(begin_s, begin)) for begin, end in blocked)
    return max(0.0, end_s - begin_s - explained_s)


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    result: list[Span] = []
    for begin_s, end_s in sorted(spans):
        if result and begin_s <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end_s))
        else:
            result.append((begin_s, end_s))
    return result


def link(one: str, other: str) -> str:
    """The name of the link by which `one` reaches `other`."""
    return f"{one}>{other}"


def _common(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    pairs = ((max(a[0], b[0]), min(a[1], b[1])) for a in some for b in others)
    return merged((begin_s, end_s) for begin_s, end_s in pairs if begin_s < end_s)
