"""Collect the final state from PostgreSQL, for the judge and the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import sql

from oncecast.app.application import App
from oncecast.chaos.checks import FailedCheck
from oncecast.chaos.judge import Evidence, identity
from oncecast.chaos.publishing import Publications
from oncecast.chaos.stalls import Outage, Span, blocked, stalls, unexplained_s
from oncecast.chaos.subject import Subject
from oncecast.core.event import follow_up_id
from oncecast.core.wire import Head

EMITTED_MAX = 32
"""The maximum number of follow-ups of one handler for one event that are recognised."""
_RECORD = """
create schema oncecast_chaos;
create table oncecast_chaos.emitted (event bytea not null);
create function oncecast_chaos.note() returns trigger language plpgsql as
    'begin insert into oncecast_chaos.emitted values (new.event); return null; end';
create trigger note after insert on {}.outbox for each row execute function oncecast_chaos.note();
"""
_TIMES = """
select journal, extract(epoch from accepted_at)::float8, extract(epoch from stored_at)::float8
from {}.events where status = 'stored' and attempts <= 1 and (%(type)s::text is null or type = %(type)s)
"""
_decode_head = msgspec.json.Decoder(Head).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long events waited, in seconds. In a *stall* no event of a journal is stored although some wait."""

    longest_stall_s: float
    longest_stall_beyond_faults_s: float
    """Without the time of faults of its producer (plus 30 s), of PostgreSQL or of all listeners."""
    longest_stall_beyond_faults_at_s: float
    """When that stall ended, from the start of the run."""
    accepted_to_stored_max_s: float


async def record_emissions(connection: psycopg.AsyncConnection[Any], group: str) -> None:
    """Make PostgreSQL record each follow-up in the transaction that inserts it into the outbox."""
    await connection.execute(sql.SQL(_RECORD).format(sql.Identifier(group)))


async def collect(
    connection: psycopg.AsyncConnection[Any],
    subject: Subject,
    publications: Publications,
    ahead: Collection[str],
    failed: Collection[FailedCheck],
) -> Evidence:
    """Return the evidence for the judge."""

    async def rows(query: LiteralString) -> list[tuple[Any, ...]]:
        found = await connection.execute(sql.SQL(query).format(sql.Identifier(subject.group)))
        return await found.fetchall()

    async def count(query: LiteralString) -> int:
        return int((await rows(query))[0][0])

    events = await rows("select source, id, type, status from {}.events")
    heads = [_decode_head(raw) for (raw,) in await rows("select event from oncecast_chaos.emitted")]
    emitted = Counter(identity(head.source, head.id) for head in heads)
    stored = [(source, id_, type_) for source, id_, type_, status in events if status == "stored"]
    derived = derived_ids(subject.app, stored) if emitted else set()
    effects = await rows("select id, count from public.effects") if subject.rules.has_effect else []
    return Evidence(
        tried=publications.tried,
        acknowledged=publications.acknowledged,
        rows={identity(source, id_): status for source, id_, _, status in events},
        types={identity(source, id_): type_ for source, id_, type_, _ in events},
        effects=dict(effects),
        emitted=emitted,
        caused={identity(head.source, head.id) for head in heads if head.id in derived},
        left_in_outbox=await count("select count(*) from {}.outbox"),
        conflicts=await count("select count(*) from {}.conflicts"),
        check_rows=sum(check.count for check in failed),
        ahead=ahead,
        gaps=await count("select count(*) from {}.gaps"),
    )


def derived_ids(app: App, stored: Collection[tuple[str, str, str]]) -> set[str]:
    """Return the ids of all follow-ups that handlers may emit for events with these sources, ids and types."""
    return {
        follow_up_id(source, id_, app.name, handler.name, index)
        for source, id_, type_ in stored
        for handler in app.plan_of(type_, source).handlers
        for index in range(EMITTED_MAX)
    }


async def measure(
    connection: psycopg.AsyncConnection[Any],
    subject: Subject,
    outages: Sequence[Outage],
    producers: Mapping[str, str],
    listeners: Sequence[str],
    began_s: float,
) -> Waits:
    """Measure the waits of a run since Unix time `began_s`; `producers` are names by journal."""
    events: dict[str, list[Span]] = defaultdict(list)
    query = sql.SQL(_TIMES).format(sql.Identifier(subject.group))
    for journal, accepted_s, stored_s in await (await connection.execute(query, {"type": subject.timed})).fetchall():
        events[journal].append((accepted_s, stored_s))
    longest_s, beyond_s, at_s = 0.0, 0.0, began_s
    for journal, waits in events.items():
        explained = blocked(outages, producers[journal], listeners)
        for begin_s, end_s in stalls(waits):
            longest_s = max(longest_s, end_s - begin_s)
            beyond_s, at_s = max((beyond_s, at_s), (unexplained_s((begin_s, end_s), explained), end_s))
    return Waits(
        longest_stall_s=round(longest_s, 1),
        longest_stall_beyond_faults_s=round(beyond_s, 1),
        longest_stall_beyond_faults_at_s=round(at_s - began_s, 1),
        accepted_to_stored_max_s=round(max((b - a for waits in events.values() for a, b in waits), default=0.0), 1),
    )
