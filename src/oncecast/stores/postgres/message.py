"""Send several statements in one message, and read the result of each.

psycopg's cursors can do this too, at several times the cost: see decision 022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.pq import Escaping, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from oncecast.core.errors import AttemptFailed
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import SessionShared


@dataclass(frozen=True, slots=True)
class WireStatement:
    """A query with values: numbers, null, or text, whose type PostgreSQL infers."""

    query: bytes
    values: Mapping[bytes, bytes | int | None]

    def written_for(self, connection: PostgresConnection) -> bytes:
        """Return the statement with quoted values, for any session settings. Raises psycopg.Error."""
        quote = Escaping(connection.pgconn).escape_literal
        written = {}
        for name, value in self.values.items():
            if isinstance(value, bytes):
                if b"\0" in value:
                    raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
                try:
                    written[name] = quote(value)
                except psycopg.OperationalError as error:  # invalid UTF-8: the value is at fault, not the connection
                    raise psycopg.DataError(str(error)) from None
            else:
                written[name] = b"null" if value is None else b"%d" % value
        return self.query % written


async def send(
    connection: PostgresConnection, message: bytes, deadline_s: float = math.inf, *, commits: bool = False
) -> list[PGresult]:
    """Return the results of the statements in order; after one that failed, none runs.

    The caller must own the connection. Raises as `PostgresConnection.answer` does, also for `commits`.
    """
    return await connection.answer(_asked(connection.pgconn, message), deadline_s, commits=commits)


def _asked(pgconn: PGconn, message: bytes) -> PQGen[list[PGresult]]:
    pgconn.send_query(message)
    results: list[PGresult] = yield from generators.execute(pgconn)
    return results


BEGIN = WireStatement(b"select pg_catalog.pg_backend_pid()", {})
"""For `begin_with`, if the transaction has no first statement of its own."""


async def begin_with(connection: PostgresConnection, first: WireStatement) -> tuple[bytes | None, ...] | None:
    """Send BEGIN and a first statement in one message; return what `own_row` returns."""
    return own_row(connection, await send(connection, b"begin; " + first.written_for(connection)))


def own_row(connection: PostgresConnection, results: list[PGresult]) -> tuple[bytes | None, ...] | None:
    """Return the row as `row_of` does, without the last column, which must be the connection's server process.

    Raises SessionShared for another process, because that has other prepared statements.
    """
    row = row_of(results)
    if row is None:
        return None
    *values, pid = row
    if connection.server_pid not in (None, pid):
        was, now = (str(one or b"", "ascii") for one in (connection.server_pid, pid))
        raise SessionShared(f"a connection was moved from server process {was} to {now}")
    return tuple(values)


def row_of(results: list[PGresult]) -> tuple[bytes | None, ...] | None:
    """Return the first row of the last statement as text, or None. Raises psycopg.Error if it failed."""
    raise_failure(last := results[-1])
    return tuple([last.get_value(0, n) for n in range(last.nfields)]) if last.ntuples else None


async def commit(connection: PostgresConnection, deadline_s: float) -> None:
    """COMMIT, and raise AttemptFailed unless PostgreSQL confirms it, or psycopg.Error if it failed.

    Without an answer the outcome is unknown; the next attempt inserts the row first, which shows it.
    """
    # A server that is stopping may add a message to its answer.
    committed, *_ = await send(connection, b"commit", deadline_s, commits=True)
    raise_failure(committed)
    # rule: only the COMMIT tag proves a commit
    if committed.command_status != b"COMMIT":
        raise AttemptFailed(
            "the transaction was rolled back although the handler returned, because it swallowed an SQL error;"
            " use 'async with tx.savepoint()' around statements that may fail"
        )


def raise_failure(result: PGresult) -> None:
    """Raise the psycopg.Error of a failed statement."""
    if result.status == ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
