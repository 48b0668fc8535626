"""Compare arrivals that were not inserted with the rows of their identities, and keep conflicts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from oncecast.core.errors import DataRefused
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts, Outcome, compared, obstacle
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.cursors import PostgresCursors
from oncecast.stores.postgres.errors import translate
from oncecast.stores.postgres.rows import json_array


class PostgresComparison(PostgresCursors):
    """The part of the EventStore that compares arrivals with rows."""

    async def compare(self, arrivals: Sequence[Arrival]) -> list[Outcome | None]:
        """Compare arrivals with the rows of their identities, in one statement per epoch, and keep the conflicts."""
        by_epoch: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
        for arrival in arrivals:
            by_epoch[arrival.journal, arrival.epoch].append(arrival)
        found: dict[tuple[str, str, int], Outcome] = {}
        async with self._db.connection("insert") as connection, asyncio.timeout(self._deadline_s):
            for place, group in by_epoch.items():
                outcomes = await self._outcomes(connection, group)
                found |= {(*place, offset): outcome for offset, outcome in outcomes.items()}
        return [found.get((a.journal, a.epoch, a.offset)) for a in arrivals]

    async def _outcomes(self, connection: PostgresConnection, arrivals: Sequence[Arrival]) -> dict[int, Outcome]:
        """Return by offset the outcomes of arrivals of one epoch whose identities have rows; keep the conflicts.

        An arrival whose content PostgreSQL cannot read is found by halving, and compared by its place only.
        """
        try:
            found = await self._contents_compared(connection, arrivals)
        except psycopg.Error as error:
            if not isinstance(translate(error), DataRefused):
                raise
            if len(arrivals) > 1:
                middle = len(arrivals) // 2
                first = await self._outcomes(connection, arrivals[:middle])
                return first | await self._outcomes(connection, arrivals[middle:])
            found = await self._place_compared(connection, arrivals[0])
        await self._keep(connection, [a for a in arrivals if found.get(a.offset) is Outcome.CONFLICT])
        return found

    async def _contents_compared(
        self, connection: PostgresConnection, arrivals: Sequence[Arrival]
    ) -> dict[int, Outcome]:
        values = {
            "events": json_array(arrivals),
            "offsets": [a.offset for a in arrivals],
            "epoch": arrivals[0].epoch,
        }
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["compare"], values)
            return {
                offset: compared(same_place=same_place, same_content=same_content)
                for offset, same_place, same_content in await cursor.fetchall()
            }

    async def _place_compared(self, connection: PostgresConnection, arrival: Arrival) -> dict[int, Outcome]:
        place = {name: getattr(arrival, name) for name in ("source", "id", "epoch", "offset")}
        row = await (await connection.execute(self._db.queries["compare_place"], place)).fetchone()
        return {} if row is None else {arrival.offset: compared(same_place=row[0], same_content=False)}

    async def _compare(
        self, connection: PostgresConnection, arrivals: Sequence[Arrival]
    ) -> dict[int, Outcome | EarlierAttempts]:
        """Return by offset why arrivals of one epoch were not inserted; keep the conflicts."""
        outcomes = await self._contents_compared(connection, arrivals)
        await self._keep(connection, [a for a in arrivals if outcomes.get(a.offset) is Outcome.CONFLICT])
        found: dict[int, Outcome | EarlierAttempts] = {**outcomes}
        missing = [arrival for arrival in arrivals if arrival.offset not in found]
        if missing:
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(self._db.queries["failed_before"], _numbered(missing))
                found |= {offset: EarlierAttempts(*earlier) for offset, *earlier in await cursor.fetchall()}
        return {arrival.offset: obstacle(found.get(arrival.offset), arrival.id) for arrival in arrivals}

    async def _compare_dead(self, connection: PostgresConnection, arrival: Arrival) -> Outcome:
        """Compare as `_compare` does, but an event whose content PostgreSQL cannot read by its place."""
        return obstacle((await self._outcomes(connection, [arrival])).get(arrival.offset), arrival.id)

    async def _keep(self, connection: PostgresConnection, conflicts: Sequence[Arrival]) -> None:
        """Insert conflicts of one epoch in one statement."""
        if conflicts:
            values = {
                "sources": [a.source for a in conflicts],
                "ids": [a.id for a in conflicts],
                "offsets": [a.offset for a in conflicts],
                "raws": [bytes(a.raw) for a in conflicts],
                "journal": conflicts[0].journal,
                "epoch": conflicts[0].epoch,
                "listener": self._db.instance,
            }
            await connection.execute(self._db.queries["keep_conflicts"], values)


def _numbered(arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Return the parameters of a query on identities and the numbers of their attempts."""
    return {
        "sources": [a.source for a in arrivals],
        "ids": [a.id for a in arrivals],
        "offsets": [a.offset for a in arrivals],
        "attempts": [a.attempts for a in arrivals],
    }
