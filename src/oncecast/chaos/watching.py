"""Check the group's cursors during a run: every event that a cursor has passed must have a row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import apsw
import httpx2
import msgspec
import psycopg
from psycopg import sql

from oncecast.chaos.judge import identity
from oncecast.core.errors import JournalCorrupt
from oncecast.core.event import Cursor
from oncecast.core.wire import Epoch, Head, decode_heads, epoch_of, resume_after
from oncecast.journal import file

CHECK_INTERVAL_S = 1.0
CONNECT_DEADLINE_S = 5
CALL_DEADLINE_S = 10.0
_CURSORS = sql.SQL('select journal, epoch, "offset", epochs from {}.cursors')
_MISSING = sql.SQL("""
select i.source, i.id from json_to_recordset(%s) as i (source text, id text)
where not exists (select 1 from {}.events e where e.source = i.source and e.id = i.id)
""")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class CursorWatch:
    """Checks each cursor, saved or reported, about every second, with every event that it has passed since.

    A check reads a journal's file while its producer runs, and PostgreSQL in one snapshot. If a fault prevents it,
    the
    next check covers the events. The final count covers events that a journal has deleted.
    """

    def __init__(
        self,
        database_url: str,
        group: str,
        journals: Mapping[str, Path],
        producer_urls: Iterable[str],
        reading: asyncio.Lock,
    ) -> None:
        self.events_checked = 0
        """The number of events that were checked behind a cursor."""
        self.ahead: set[str] = set()
        """Identities that a cursor has passed although they have no row."""
        self._database_url = database_url
        self._journals = journals
        self._group = group
        self._cursors = _CURSORS.format(sql.Identifier(group))
        self._missing = _MISSING.format(sql.Identifier(group))
        self._producer_urls = list(producer_urls)
        self._reading = reading
        self._checked: dict[tuple[str, bool], Cursor] = {}

    async def run(self) -> None:
        """Check about every second, until cancelled."""
        async with httpx2.AsyncClient(trust_env=False, timeout=2.0) as client:
            while True:
                await self.check(client)
                await asyncio.sleep(CHECK_INTERVAL_S)

    async def check(self, client: httpx2.AsyncClient) -> None:
        """Check all cursors once; does nothing if PostgreSQL or a journal cannot be read."""
        reported = [await self._reported(client, url) for url in self._producer_urls]
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                connection = await psycopg.AsyncConnection.connect(
                    self._database_url, connect_timeout=CONNECT_DEADLINE_S
                )
                async with connection:
                    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                    for journal, epoch, offset, epochs in await (await connection.execute(self._cursors)).fetchall():
                        known = msgspec.convert(epochs, list[Epoch])
                        await self._check(connection, journal, Cursor(epoch, offset), known)
                    for journal, cursor in filter(None, reported):
                        await self._check(connection, journal, cursor, None)
        except (psycopg.Error, OSError, TimeoutError, apsw.Error, JournalCorrupt):
            return

    async def _reported(self, client: httpx2.AsyncClient, url: str) -> tuple[str, Cursor] | None:
        """Return a producer's journal and the reported cursor, up to which it may delete events."""
        try:
            name = (await client.get(f"{url}/api/journal")).json()["name"]
            groups = (await client.get(f"{url}/api/groups")).json()["groups"]
            return next(
                ((name, Cursor.parse(group["cursor"])) for group in groups if group["name"] == self._group), None
            )
        except (httpx2.HTTPError, ValueError, KeyError, TypeError):
            return None

    async def _check(self, connection: Connection, journal: str, cursor: Cursor, known: list[Epoch] | None) -> None:
        path = self._journals.get(journal)
        if path is None:
            return
        checked = self._checked.get((journal, known is None))
        async with self._reading:
            heads, reached = await asyncio.to_thread(_behind, path, cursor, known, checked)
        if heads:
            rows = await (await connection.execute(self._missing, (msgspec.json.encode(heads).decode(),))).fetchall()
            self.ahead |= {identity(source, id_) for source, id_ in rows}
            self.events_checked += len(heads)
        self._checked[journal, known is None] = reached


def _behind(
    path: Path, cursor: Cursor, known: list[Epoch] | None, checked: Cursor | None
) -> tuple[list[Head], Cursor]:
    """Return the heads of the events between `checked`, the last checked cursor, and `cursor`, and the new position.

    `known` are the epochs that were saved with the cursor; None for a reported one, which has the journal's epochs.
    """
    connection = file.open_file(path, read_only=True)
    try:
        served = [Epoch(epoch, at) for at, epoch in connection.execute("select * from epochs order by rowid")]
        last = resume_after(cursor, known or served, served)
        begin = resume_after(checked, known or served, served)
        passed: list[Head] = []
        for batch in file.read(connection, begin):
            heads = decode_heads(batch.body)
            places = enumerate(heads, batch.first_offset)
            passed += [head for offset, head in places if begin < offset <= last]
            if batch.last_offset >= last:
                break
        reached = max(begin, last)
        return passed, Cursor(epoch_of(served, max(1, reached)), reached)
    finally:
        connection.close()
