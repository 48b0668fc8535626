"""The event store: inserts, attempts and dead letters. The primary key `(source, id)` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from oncecast.core.attempts import FailedAttempt, attempts_in_all
from oncecast.core.dead_letter_ports import DeadLetter
from oncecast.core.errors import DataRefused, NotNext, RowLocked, Unavailable, error_text
from oncecast.core.event import Arrival, Turn
from oncecast.core.membership import decide_registration
from oncecast.core.outcomes import DeadLetterResult, EarlierAttempts, Outcome
from oncecast.core.ports import PrunedRows, Sessions, Work, WorkTogether
from oncecast.core.ranges import Range, WholeRanges
from oncecast.core.tracebacks import trace_of
from oncecast.core.transaction import OpenTransaction
from oncecast.stores.postgres.comparison import PostgresComparison
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.errors import DATABASE_ERRORS, insert_error, translate
from oncecast.stores.postgres.handover import Held, commit
from oncecast.stores.postgres.message import BEGIN, WireStatement, begin_with, own_row, send
from oncecast.stores.postgres.rows import dead_letter_of, identities_of, row_values, rows_of, storable
from oncecast.stores.postgres.whole import Copied, Run, copy_if_admitted, rows_to_copy, runs_of, runs_of_ranges
from oncecast.stores.postgres.work import finish

LOOKED_BACK_MAX = 1_000
"""The most events before an ordered event that are looked up, if their rows came from other places. Beyond that the
event waits until a cursor is saved over the rest."""
WHOLE_MIN_EVENTS = 32
"""COPY takes one more round trip than an insert."""
COPIES_LEFT_OUT = 8
"""After a refusal the next batches are probably refused, too: events are published again, or attempts fail."""
ANY_REVISION = -1
"""The revision of the group's application before `register_handlers` was called."""


class PostgresEvents(PostgresComparison):
    """The event store of one listener in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._revision = ANY_REVISION
        self._copies_left_out = 0
        """How many of the next batches are not tried by COPY."""

    whole_min_events = WHOLE_MIN_EVENTS

    @property
    def ready_ahead(self) -> int:
        """One waiting call for each running one."""
        return self._db.handlers_max

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        """Insert arrivals of one epoch; compare those that already have rows."""
        rows = rows_of(arrivals, self._db.instance, self._revision)
        async with self._db.connection("insert") as connection, asyncio.timeout(self._deadline_s):
            # One statement is one transaction; only existing rows need a second one.
            inserted = await self._insert(connection, rows)
            if len(inserted) == len(arrivals):
                return [Outcome.STORED] * len(arrivals)
            others = [arrival for arrival in arrivals if arrival.offset not in inserted]
            found = await self._compare(connection, others)
        return [Outcome.STORED if a.offset in inserted else found[a.offset] for a in arrivals]

    def prepare_whole(self, ranges: Sequence[Range]) -> WholeRanges | None:
        """Return the rows of ranges for COPY."""
        copied = self._to_copy(runs_of_ranges(ranges))
        return None if copied is None else WholeRanges(ranges, copied.kinds, copied.rows)

    async def insert_whole(self, whole: WholeRanges) -> bool:
        """Insert the rows of whole ranges by COPY, or none."""
        count = sum(each.size for each in whole.ranges)
        try:
            async with self._db.connection("insert") as connection, asyncio.timeout(self._deadline_s):
                return await self._copy(connection, whole.rows, count)
        except RowLocked:
            return False

    def _to_copy(self, runs: Iterable[Run]) -> Copied | None:
        """Return the rows for COPY; None if one has an unusual form, and for a while after COPY was refused."""
        if self._copies_left_out:
            self._copies_left_out -= 1
            return None
        return rows_to_copy(runs, self._db.instance)

    async def _copy(self, connection: PostgresConnection, rows: bytes, count: int) -> bool:
        """Insert `count` rows by COPY; return whether all are inserted. If not, roll an open transaction back."""
        message = self._db.queries["copy"] % {b"revision": self._revision}
        try:
            if await connection.wait(copy_if_admitted(connection.pgconn, message, rows)) == count:
                return True
        except psycopg.errors.FeatureNotSupported:  # the table has row-level security
            pass
        except psycopg.Error as error:
            if not isinstance(translate(error), DataRefused):
                raise
        self._copies_left_out = COPIES_LEFT_OUT
        return False

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        """Insert the row and run `work` in one transaction."""
        opening = WireStatement(
            self._db.queries["begin_attempt"], row_values(arrival, self._db.instance, self._revision)
        )
        async with self._db.handling(opening if arrival.turn is None else None) as held:
            if not held.opened:
                async with asyncio.timeout(self._deadline_s):
                    # rule: a handler runs only for an event that was inserted
                    if not await self._begin_with(held, opening, arrival.turn):
                        await held.connection.execute("rollback")
                        held.connection.writes = True  # a conflict is inserted in a transaction of its own
                        return (await self._compare(held.connection, [arrival]))[arrival.offset]
            failure = await finish(self._db, held, work)
        if failure is not None:
            raise failure
        return Outcome.STORED

    async def process_together(
        self, arrivals: Sequence[Arrival], work: WorkTogether
    ) -> list[Outcome | EarlierAttempts]:
        """Insert the rows and run `work` for the new ones in one transaction."""
        async with self._db.handling() as held:
            connection = held.connection
            async with asyncio.timeout(self._deadline_s):
                await begin_with(connection, BEGIN)
                inserted = await self._insert_together(connection, arrivals)
                others = [arrival for arrival in arrivals if arrival.offset not in inserted]
                found = await self._compare(connection, others) if others else {}
            # rule: handlers receive only the events that their transaction inserted
            new = [arrival for arrival in arrivals if arrival.offset in inserted]

            async def work_on_new(tx: OpenTransaction) -> None:
                if new:
                    await work(tx, new)

            failure = await finish(self._db, held, work_on_new)
        if failure is not None:
            raise failure
        return [found.get(arrival.offset, Outcome.STORED) for arrival in arrivals]

    async def _insert_together(self, connection: PostgresConnection, arrivals: Sequence[Arrival]) -> set[int]:
        """Insert arrivals in the open transaction; return the offsets of the new ones."""
        is_first = all(arrival.attempts <= 1 for arrival in arrivals)
        if is_first and len(arrivals) >= WHOLE_MIN_EVENTS:
            copied = self._to_copy(runs_of(arrivals))
            if copied is not None:
                if await self._copy(connection, copied.rows, len(arrivals)):
                    return {arrival.offset for arrival in arrivals}
                await connection.execute("rollback")
                await begin_with(connection, BEGIN)
        return await self._insert(connection, rows_of(arrivals, self._db.instance, self._revision))

    async def _begin_with(self, held: Held, opening: WireStatement, turn: Turn | None) -> bool:
        """Begin a transaction with an event's row, in as few round trips as possible; return whether it is new."""
        if held.opened is not None:
            return held.opened
        try:
            if turn is None:
                return await begin_with(held.connection, opening) == (b"t",)
            await self._begin_in_turn(held.connection, turn)
            opened = await send(held.connection, opening.written_for(held.connection))
            return own_row(held.connection, opened) == (b"t",)
        except psycopg.Error as error:
            raise insert_error(error) from error

    async def _begin_in_turn(self, connection: PostgresConnection, turn: Turn) -> None:
        """Begin a transaction and lock the key. Raises NotNext unless the events before it have rows."""
        before = next(turn.rows_needed(), turn)
        values = {b"key": turn.key.encode(), b"source": before.source.encode(), b"id": before.id.encode()}
        row = await begin_with(connection, WireStatement(self._db.queries["take_turn"], values))
        taken, epoch, offset = row or (None, None, None)
        # rule: one event of a key runs at a time
        is_locked = taken == b"t" and turn.track.incarnation in (None, connection.incarnation)
        rows = {} if epoch is None or offset is None else {before.identity: (epoch.decode(), int(offset))}
        if is_locked and rows and not turn.has_come(rows):
            rows = await self._rows_before(connection, turn)
        # rule: an ordered event runs only after the row of the event before it
        if not (is_locked and turn.has_come(rows)):
            await connection.execute("rollback")
            raise NotNext(f"another event of {turn.key[:80]} is next")

    async def _rows_before(
        self, connection: PostgresConnection, turn: Turn
    ) -> dict[tuple[str, str], tuple[str, int]]:
        """Return the places of earlier rows for `Turn.has_come`, if the previous row came from another place."""
        needed = list(islice(turn.rows_needed(), LOOKED_BACK_MAX))
        values = {"sources": [one.source for one in needed], "ids": [one.id for one in needed]}
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._db.queries["places"], values)
            return {(source, id_): (epoch, offset) for source, id_, epoch, offset in await cursor.fetchall()}

    async def count_failure(self, failure: FailedAttempt) -> int:
        """Insert or update the count of the event's failed attempts."""
        arrival = failure.arrival
        values = {
            "source": arrival.source,
            "id": arrival.id,
            "type": arrival.type,
            "attempts": arrival.attempts,
            "error": storable(failure.error),
            "failure": failure.name,
            "listener": self._db.instance,
            "delay_s": failure.next_in_s,
        }
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            row = await (await connection.execute(self._db.queries["count_failure"], values)).fetchone()
            return row[0] if row else arrival.attempts

    async def prune_attempts(self, *, overdue_s: float) -> int:
        """Delete the counts of ended events and of events that are overdue."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            ended = await connection.execute(self._db.queries["prune_attempts"])
            values = {"overdue_s": overdue_s}
            overdue = await connection.execute(self._db.queries["prune_overdue_attempts"], values)
            return ended.rowcount + overdue.rowcount

    async def dead_letter(self, arrival: Arrival, cause: BaseException) -> DeadLetterResult:
        """Insert the row as dead and its dead letter, in one transaction."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
        ):
            # rule: an ordered event becomes a dead letter only in its turn
            if arrival.turn is not None:
                await self._begin_in_turn(connection, arrival.turn)
            else:
                await connection.execute("begin")
            attempts = await self._end_attempts(connection, arrival)
            if not await self._insert_dead(connection, arrival, attempts):
                await connection.execute("rollback")
                return DeadLetterResult(await self._compare_dead(connection, arrival), attempts)
            await connection.execute(
                self._db.queries["keep_dead_letter"],
                {
                    "source": arrival.source,
                    "id": arrival.id,
                    "type": arrival.type,
                    "error": storable(error_text(cause)),
                    "trace": storable(trace_of(cause)),
                    "attempts": attempts,
                    "raw": bytes(arrival.raw),
                    "listener": self._db.instance,
                },
            )
            await commit(connection, self._deadline_s)
        return DeadLetterResult(Outcome.STORED, attempts)

    async def unlogged(self, limit: int) -> list[DeadLetter]:
        """Return this listener's oldest dead letters that are not in the dead-letter log yet."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries["unlogged"], {"listener": self._db.instance, "limit": limit})
            return [dead_letter_of(row) for row in await cursor.fetchall()]

    async def mark_logged(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Record that these dead letters are in the dead-letter log."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            await connection.execute(self._db.queries["mark_logged"], identities_of(dead_letters))

    async def _end_attempts(self, connection: PostgresConnection, arrival: Arrival) -> int:
        """Delete the count of failed attempts of an event that ends; return the attempts for its row."""
        key = {"source": arrival.source, "id": arrival.id}
        row = await (await connection.execute(self._db.queries["end_attempts"], key)).fetchone()
        return attempts_in_all(arrival, row[0] if row else 0)

    async def _insert_dead(self, connection: PostgresConnection, arrival: Arrival, attempts: int) -> bool:
        """Insert the row as `dead`, without its payload if PostgreSQL refuses that; return whether it is new."""
        try:
            async with connection.transaction():
                rows = {**rows_of([arrival], self._db.instance, self._revision), "attempts": [attempts]}
                if not await self._insert(connection, rows):
                    return False
                key = {"source": arrival.source, "id": arrival.id}
                await connection.execute(self._db.queries["mark_dead"], key)
                return True
        except (psycopg.Error, DataRefused) as error:
            if isinstance(error, psycopg.Error) and not isinstance(translate(error), DataRefused):
                raise
            place = {name: getattr(arrival, name) for name in ("source", "id", "type", "journal", "epoch", "offset")}
            cursor = await connection.execute(
                self._db.queries["insert_dead"],
                {
                    **place,
                    "listener": self._db.instance,
                    "attempts": attempts,
                    "at_us": arrival.at_us,
                    "revision": self._revision,
                },
            )
            return await cursor.fetchone() is not None

    async def _insert(self, connection: PostgresConnection, rows: dict[str, Any]) -> set[int]:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            try:
                await cursor.execute(self._db.queries["insert"], rows)
            except psycopg.Error as error:
                raise insert_error(error) from error
            return {offset for (offset,) in await cursor.fetchall()}

    async def register_handlers(self, selectors: frozenset[str], *, force: bool) -> frozenset[str]:
        """Read the newest record of the group's handlers, and insert a new one if needed."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self._db.queries["newest_group"])
            revision, newest = await cursor.fetchone() or (0, [])
            decision = decide_registration(revision, frozenset(newest), selectors, force=force)
            if decision.is_new:
                values = {
                    "revision": decision.revision,
                    "selectors": sorted(selectors),
                    "listener": self._db.instance,
                }
                await cursor.execute(self._db.queries["register_handlers"], values)
                if cursor.rowcount == 0:
                    raise RowLocked("another listener of the group recorded its handlers at the same time")
        if not decision.missing:
            self._revision = decision.revision
        return decision.missing

    async def prune(self, *, older_than_s: float, limit: int, after: datetime | None = None) -> PrunedRows:
        """Delete old stored rows below the saved cursors; skip rows that are locked."""
        async with self._db.connection("upkeep") as connection, asyncio.timeout(self._deadline_s):
            values = {"older_than_s": older_than_s, "limit": limit, "after": after}
            row = await (await connection.execute(self._db.queries["prune"], values)).fetchone()
            return PrunedRows(*row) if row else PrunedRows(0, None)

    async def count_prunable(self, *, older_than_s: float) -> int:
        """Count the rows that `prune` would delete."""
        async with self._db.connection("read") as connection, asyncio.timeout(self._deadline_s):
            cursor = await connection.execute(self._db.queries["count_prunable"], {"older_than_s": older_than_s})
            row = await cursor.fetchone()
            return row[0] if row else 0

    async def probe(self, *, writes: bool = True) -> None:
        """Check on a new connection that PostgreSQL accepts writes."""
        try:
            async with asyncio.timeout(self._db.limits.connect_s * 2):
                connection = await self._db.connect(writes=True)
                async with connection:
                    cursor = await connection.execute(self._db.queries["is_read_only"])
                    if await cursor.fetchone() == (True,):
                        raise Unavailable("PostgreSQL: it accepts no writes: it is a standby, or read-only")
                    if writes:
                        await connection.execute(self._db.queries["probe"], {"listener": self._db.instance})
        except DATABASE_ERRORS as error:
            meant = translate(error)
            raise (meant if isinstance(meant, Unavailable | RowLocked) else Unavailable(str(meant))) from error

    async def renew(self) -> None:
        """Check the sessions, and replace all connections."""
        try:
            await self._db.check_sessions()
            await self._db.renew()
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        """End the sessions of a dead listener, found by the token in their application_name."""
        async with (
            self._db.connection("upkeep") as connection,
            asyncio.timeout(self._deadline_s),
            connection.transaction(),
        ):
            await connection.execute("set local role none")  # use the login role, which the other sessions have
            values = {"token": token, "silent_s": silent_s}
            row = await (await connection.execute(self._db.queries["end_sessions"], values)).fetchone()
        in_use, waiting = row[:2] if row else (False, 0)
        if in_use:
            return Sessions.IN_USE
        return Sessions.SILENT if waiting else Sessions.NONE

    async def close(self) -> None:
        """Close all connections."""
        await self._db.close()
