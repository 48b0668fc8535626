"""What PostgreSQL shows when everything has come to rest, for the judge and the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from oncecast.chaos.judge import Evidence
from oncecast.chaos.publishing import Publications
from oncecast.chaos.stalls import Hurt, Span, blocked, stalls, unexplained_s

_TIMES = """
select journal, extract(epoch from accepted_at)::float8, extract(epoch from stored_at)::float8
from chaos.events where type = 'tick'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long plain events had to wait, in seconds. A *stall*: nothing of a journal is stored, though some wait."""

    longest_stall_s: float
    longest_stall_beyond_faults_s: float
    """Without the time in which its producer (and 30 s after), PostgreSQL or every listener was hurt."""
    longest_stall_beyond_faults_at_s: float
    """When that one ended, from the begin of the run."""
    accepted_to_stored_max_s: float


async def collect(
    connection: psycopg.AsyncConnection[Any], publications: Publications, ahead: Collection[str]
) -> Evidence:
    """Everything that the judge asks for."""

    async def pairs(query: str) -> dict[str, Any]:
        return dict(await (await connection.execute(query)).fetchall())

    gaps = await pairs("select 'gaps', count(*) from chaos.gaps")
    return Evidence(
        tried=publications.tried,
        acknowledged=publications.acknowledged,
        rows=await pairs("select id, status from chaos.events"),
        effects=await pairs("select id, count from public.effects"),
        ahead=ahead,
        gaps=gaps["gaps"],
    )


async def measure(
    connection: psycopg.AsyncConnection[Any],
    hurts: Sequence[Hurt],
    producers: Mapping[str, str],
    listeners: Sequence[str],
    began_s: float,
) -> Waits:
    """How long events waited in a run from Unix time `began_s` on; `producers` are their names by journal."""
    events: dict[str, list[Span]] = defaultdict(list)
    for journal, accepted_s, stored_s in await (await connection.execute(_TIMES)).fetchall():
        events[journal].append((accepted_s, stored_s))
    longest_s, beyond_s, at_s = 0.0, 0.0, began_s
    for journal, waits in events.items():
        explained = blocked(hurts, producers[journal], listeners)
        for begin_s, end_s in stalls(waits):
            longest_s = max(longest_s, end_s - begin_s)
            beyond_s, at_s = max((beyond_s, at_s), (unexplained_s((begin_s, end_s), explained), end_s))
    return Waits(
        longest_stall_s=round(longest_s, 1),
        longest_stall_beyond_faults_s=round(beyond_s, 1),
        longest_stall_beyond_faults_at_s=round(at_s - began_s, 1),
        accepted_to_stored_max_s=round(max((b - a for waits in events.values() for a, b in waits), default=0.0), 1),
    )
