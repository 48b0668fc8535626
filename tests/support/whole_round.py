"""Make each of a listener's calls to PostgreSQL once, and return the results, which must not depend on the server."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec
import psycopg

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.attempts import FailedAttempt
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.errors import DataRefused, Reject
from oncecast.core.event import Arrival, Cursor, Turn
from oncecast.core.transaction import OpenTransaction, Transaction
from oncecast.stores.postgres import (
    Database,
    EventReader,
    PostgresConflicts,
    PostgresCrashLog,
    PostgresDeadLetters,
    PostgresEvents,
    PostgresOutbox,
    PostgresUnforwarded,
)
from oncecast.stores.postgres.database import Limits
from tests.support.arrivals import track
from tests.support.places import EPOCHS, JOURNAL, arrival, record

SCHEMA = "shop"
LIMITS = Limits(lock_s=1.0, statement_s=20.0)
_NOW = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
NAMED_TIMES = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1999-01-02T03:04:05.5+05:30")
BACKSLASHES = r"""ValueError: sku='A-1' at C:\temp\7 "quoted" (no 12)"""


def plain(value: Any) -> Any:
    """The same without what differs from one run to the next: times of the run, marks of pages, traces."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in ("mark", "trace")}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes | msgspec.Raw):
        return bytes(value).decode("latin-1")
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return plain(msgspec.to_builtins(value))
    return _NOW.sub("NOW", value) if isinstance(value, str) and value not in NAMED_TIMES else value


def handler_error(found: list[Any]) -> Any:
    """A handler's work with values of every kind, whose answers come to `found`."""

    async def work(tx: Transaction) -> None:
        await tx.execute("insert into public.effects values (%s, %s)", ("o'clock", [1, None]))
        found.append(await tx.fetch_one("select * from public.effects"))
        found.append(
            await tx.fetch_one(
                "select timestamptz '2026-01-02 03:04:05Z' = %s::timestamptz as same,"
                " interval '1 day 2 hours' as span,"
                " pg_catalog.decode('00ff', 'hex') as bytes, array['a', null] as texts, %s::text[] as given",
                ("2026-01-02T03:04:05Z", ["x", None]),
            )
        )

    return work


async def whole_round(url: str) -> dict[str, Any]:
    """Each call of every store, on a database that has `public.effects (id text, numbers integer[])`."""
    database = Database(
        url,
        SYSTEM_CLOCK,
        schema=SCHEMA,
        instance="a",
        token="a" * 16,
        limits=dataclasses.replace(LIMITS, pool_size=2),
    )
    await database.open()
    try:
        await database.prepare()
        answers = {name: answer for part in PARTS for name, answer in (await part(database)).items()}
        comparable: dict[str, Any] = plain(answers)
        return comparable
    finally:
        await database.close()


async def _events(database: Database) -> dict[str, Any]:
    store, found = PostgresEvents(database), list[Any]()
    agreed = await store.register_handlers(frozenset({"tick"}), force=False)
    batch = [
        arrival(1, time=NAMED_TIMES[0], data={"n": 1.50, "big": 12345678901234567890, "ü": "\\ '"}),
        arrival(2, time=NAMED_TIMES[1], extensions={"traceparent": "00-ab"}),
        arrival(3, time=NAMED_TIMES[2], data=b"\x00\xff\\"),
    ]
    twice = [arrival(1, "again-1"), arrival(2, "id-2")]
    twice[0].id, twice[0].raw = batch[0].id, batch[0].raw
    for offset, one in zip((11, 12), twice, strict=True):
        one.offset = offset
    handled = arrival(4, "handled", time=NAMED_TIMES[2])
    handled.turn = Turn("account=7", handled.source, handled.id, "e1", 4, track())

    async def emitting(tx: OpenTransaction) -> None:
        await handler_error(found)(tx)
        await tx.take("account=8")
        tx.emitted.extend([b'{"n": 1}', b'{"n": 2}'])

    async def together(tx: OpenTransaction, new: Sequence[Arrival]) -> None:
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            async with tx.savepoint():
                await tx.execute("select 1 / 0")
        async with tx.savepoint():
            await tx.execute("insert into public.effects values (%s)", (new[0].id,))

    return {
        "agreed": sorted(agreed),
        "inserted": await store.insert(batch),
        "again": await store.insert(twice),
        "handled": await store.process(handled, emitting),
        "handled again": await store.process(arrival(14, "handled"), emitting),
        "handler's": found,
        "together": await store.process_together([arrival(5), arrival(6), twice[0]], together),
    }


async def _dead(database: Database) -> dict[str, Any]:
    store, dead_letters, unforwarded = (
        PostgresEvents(database),
        PostgresDeadLetters(database),
        PostgresUnforwarded(database),
    )
    await unforwarded.begin()
    dead_lettered = [(await store.dead_letter(arrival(n), Reject(BACKSLASHES))).outcome.value for n in (7, 8, 9)]
    refused = arrival(10)
    refused.raw = msgspec.Raw(bytes(refused.raw).replace(b"10}", b'"\\u0000"}'))
    dead_lettered.append((await store.dead_letter(refused, DataRefused("it cannot be stored"))).outcome.value)
    chosen, one, others = Selection(), Identity("/oncecast", "id-7"), [Identity("/oncecast", "id-8")]
    first = await dead_letters.newest(chosen, limit=2)
    claimed = await unforwarded.claim(10)
    unlogged = await store.unlogged(10)
    await store.mark_logged(unlogged)
    found: list[Any] = []
    answers = {
        "dead_lettered": dead_lettered,
        "unlogged": [msgspec.to_builtins(dead_letter) | {"raw": dead_letter.raw} for dead_letter in unlogged],
        "logged": await store.unlogged(10),
        "pages": [first, await dead_letters.newest(chosen, limit=2, after=first[-1]["mark"])],
        "read": await dead_letters.read(Selection(since="2020-01-01T00:00:00Z"), limit=5, max_bytes=10**6),
        "causes": msgspec.to_builtins(await dead_letters.causes(Selection(error="c:\\TEMP"), limit=5)),
        "edited": await dead_letters.edit(*one, b'{"n": 0.10}'),
        "discarded": sorted(await dead_letters.discard(others)),
        "restored": sorted(await dead_letters.restore(others)),
        "reset": sorted(await dead_letters.reset(others)),
        "replayed": await dead_letters.replay(*one, lambda _arrival, tx: handler_error(found)(tx)),
        "replayed again": await dead_letters.replay(*one, lambda _arrival, tx: handler_error(found)(tx)),
        "claimed": [dead_letter.id for dead_letter in claimed],
    }
    await dead_letters.note_failure(*others[0], ValueError(BACKSLASHES))
    answers["left"] = await dead_letters.get(*others[0])
    await unforwarded.mark_forwarded(claimed[:1])
    await unforwarded.release(claimed[1:])
    return {**answers, "unsent": await unforwarded.count()}


async def _upkeep(database: Database) -> dict[str, Any]:
    store, crash_log, published = PostgresEvents(database), PostgresCrashLog(database), list[bytes]()

    async def publish(events: Sequence[bytes]) -> None:
        published.extend(events)

    start = Cursor("e1", 0)
    await record(store, 1, 3)
    saved = await store.save_cursor(JOURNAL, EPOCHS, position=start, proved=3)
    await store.begin_cursor("other", EPOCHS, start)
    gap = await store.pass_gap("other", EPOCHS, first=4, reason="it's gone\\")
    await store.adopt_cursor("other", EPOCHS, instead_of=EPOCHS)
    other = Database(database._url, SYSTEM_CLOCK, schema=SCHEMA, instance="b", token="b" * 16, limits=LIMITS)
    session = await other.connect()
    try:
        ended = (await store.end_sessions("b" * 16, silent_s=0.0)).value
    finally:
        await session.close()
    await store.probe()
    begun, isolated = await crash_log.register_process(), await crash_log.begin_isolated(arrival(9))
    await crash_log.end_isolated(arrival(9))
    await crash_log.unregister_process()
    return {
        "begun": begun,
        "isolated": isolated,
        "saved": msgspec.to_builtins(saved),
        "loaded": msgspec.to_builtins(await store.load_cursor(JOURNAL)),
        "gap": msgspec.to_builtins(gap),
        "relayed": await PostgresOutbox(database).relay(publish, limit=10, max_bytes=10**6, within_s=5.0),
        "published": published,
        "sessions ended": ended,
    }


async def _pages(database: Database) -> dict[str, Any]:
    reader, store = EventReader(database), PostgresEvents(database)
    pages = [await reader.newest(limit=3)]
    while pages[-1]:
        pages.append(await reader.newest(limit=3, after=pages[-1][-1]["mark"]))
    await record(store, 4, 7)
    await store.save_cursor(JOURNAL, EPOCHS, position=Cursor("e1", 0), proved=7)
    return {
        "pages of events": pages,
        "gaps": await reader.gaps(),
        "prunable": await store.count_prunable(older_than_s=0.0),
        "pruned": (await store.prune(older_than_s=0.0, limit=100)).rows,
        "left behind": await _left(database),
    }


async def _left(database: Database) -> list[Any]:
    """Dead letters whose events are gone."""
    connection = await database.connect()
    async with connection:
        cursor = await connection.execute(
            f"select id from {SCHEMA}.dead_letters d"
            f" where not exists (select from {SCHEMA}.events e where e.source = d.source and e.id = d.id)"
        )
        return await cursor.fetchall()


async def _conflicts(database: Database) -> dict[str, Any]:
    conflicts, found = PostgresConflicts(database), list[Any]()
    listed = await conflicts.newest(state="open", limit=5)
    place = Cursor("e1", 14)
    return {
        "conflicts": listed,
        "open work": (await EventReader(database).open_work()).conflicts,
        "one": await conflicts.get(place),
        "given up": sorted(await conflicts.discard([place])),
        "taken up": sorted(await conflicts.restore([place])),
        "replayed as another": await conflicts.replay(place, "of-its-own", lambda _one, tx: handler_error(found)(tx)),
        "done": await conflicts.newest(state="replayed", limit=5),
    }


async def _attempts(database: Database) -> dict[str, Any]:
    store, found = PostgresEvents(database), list[Any]()
    late = [arrival(21, "late"), arrival(22, "later")]
    for one in late:
        failure = FailedAttempt(name=f"{one.id}-1", arrival=one, error=BACKSLASHES, next_in_s=0.0)
        found.append(await store.count_failure(failure))
    answers = {
        "failed": found,
        "retrying": await EventReader(database).retrying(limit=5),
        "inserted without knowing": await store.insert([late[0]]),
        "processed without knowing": await store.process(late[1], handler_error(found)),
    }
    late[0].attempts = late[1].attempts = 2
    return {
        **answers,
        "inserted later": await store.insert([late[0]]),
        "processed later": await store.process(late[1], handler_error(found)),
        "attempts left": await store.prune_attempts(overdue_s=3600.0),
    }


PARTS = (_events, _conflicts, _attempts, _dead, _upkeep, _pages)
ROUND_S = timedelta(seconds=60).total_seconds()


async def prepare(url: str) -> None:
    """What a round finds in its database."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create table public.effects (id text, numbers integer[])")
