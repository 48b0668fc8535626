"""Whether there is a pooler that gives a connection's transactions to changing server processes.

Under it prepared statements, settings and locks of one connection reach another: docs/how-to/connection-poolers.md.
"""

from __future__ import annotations

from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import SessionShared
from oncecast.stores.postgres.message import row_of, send

ROUNDS = 5
_WHICH = b"select pg_catalog.pg_backend_pid()"


async def check_each_has_its_own(first: PostgresConnection, second: PostgresConnection) -> None:
    """Raise SessionShared unless each of two open connections keeps a server process of its own.

    A pooler that hands out the process that was idle for the shortest time gives both the same. One that hands out
    the one that was idle for the longest gives a connection two when it asks twice in a row. Others choose at random,
    or are disturbed by other clients: for these there are several rounds.
    """
    known: dict[bytes, PostgresConnection] = {}
    for connection in (first, first, second, second) * ROUNDS:
        pid = await _server_process(connection)
        if known.setdefault(pid, connection) is not connection:
            raise SessionShared(f"server process {pid.decode()} served two connections")
        if connection.server_pid != pid:
            raise SessionShared("the transactions of one connection reached several server processes")


async def _server_process(connection: PostgresConnection) -> bytes:
    row = row_of(await send(connection, _WHICH))
    return row[0] or b"" if row else b""
