"""Several statements in one message, and how each of them ended.

A cursor of psycopg can do that too, at several times the price: see decision 022.
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

from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import SessionShared


@dataclass(frozen=True, slots=True)
class WireStatement:
    """A query with values, which are numbers, null, or text to which PostgreSQL gives the type that it needs."""

    query: bytes
    values: Mapping[bytes, bytes | int | None]

    def written_for(self, connection: PostgresConnection) -> bytes:
        """As it is sent there, whatever the session's settings. Raises psycopg.Error if that cannot be."""
        quote = Escaping(connection.pgconn).escape_literal
        written = {}
        for name, value in self.values.items():
            if isinstance(value, bytes):
                if b"\0" in value:
                    raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
                try:
                    written[name] = quote(value)
                except psycopg.OperationalError as error:  # invalid UTF-8: the value's fault, not the connection's
                    raise psycopg.DataError(str(error)) from None
            else:
                written[name] = b"null" if value is None else b"%d" % value
        return self.query % written


async def send(
    connection: PostgresConnection, message: bytes, deadline_s: float = math.inf, *, commits: bool = False
) -> list[PGresult]:
    """How its statements ended, in order: behind one that failed none was run. Raises if nobody knows, or too late.

    The connection is the caller's alone. For what `commits` see Connection.answer.
    """
    return await connection.answer(_asked(connection.pgconn, message), deadline_s, commits=commits)


def _asked(pgconn: PGconn, message: bytes) -> PQGen[list[PGresult]]:
    pgconn.send_query(message)
    results: list[PGresult] = yield from generators.execute(pgconn)
    return results


BEGIN = WireStatement(b"select pg_catalog.pg_backend_pid()", {})
"""For `begin_with`, where the transaction has no first statement of its own."""


async def begin_with(connection: PostgresConnection, first: WireStatement) -> tuple[bytes | None, ...] | None:
    """BEGIN and a first statement in one message; returns what `own_row` does."""
    return own_row(connection, await send(connection, b"begin; " + first.written_for(connection)))


def own_row(connection: PostgresConnection, results: list[PGresult]) -> tuple[bytes | None, ...] | None:
    """As `row_of`, without the last column: the server process, which has to be the connection's own.

    Raises SessionShared where it is another, because that process has other prepared statements.
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
    """The first row of the last statement, as text; None if it has none. Raises psycopg.Error if it failed."""
    raise_failure(last := results[-1])
    return tuple([last.get_value(0, n) for n in range(last.nfields)]) if last.ntuples else None


def raise_failure(result: PGresult) -> None:
    """Raise the psycopg.Error with which a statement failed, if it did."""
    if result.status == ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
