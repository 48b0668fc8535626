"""Detect a pooler that runs the transactions of one connection in different server processes.

With such a pooler, connections share prepared statements, settings and locks: see docs/how-to/connection-poolers.md.
"""

from __future__ import annotations

from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import SessionShared
from oncecast.stores.postgres.message import row_of, send

ROUNDS = 5
_WHICH = b"select pg_catalog.pg_backend_pid()"


async def check_each_has_its_own(first: PostgresConnection, second: PostgresConnection) -> None:
    """Raise SessionShared unless each of two open connections has a server process of its own.

    A pooler that picks the most recently used process gives both connections the same one. A pooler that picks the
    least recently used one gives a connection different processes in two calls. Several rounds detect poolers that
    pick at random or serve other clients meanwhile.
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
