"""The application's own checks: SQL queries, each row of which is a violation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from oncecast.chaos.subject import CHECKS
from oncecast.core.errors import ConfigError

SHOWN_MAX = 10
TIMEOUT_MS = 120_000


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check that returned `count` rows, and the first of them."""

    name: str
    count: int
    rows: list[dict[str, str]]


async def run_checks(connection: psycopg.AsyncConnection[Any], checks: Mapping[str, str]) -> list[FailedCheck]:
    """Run each check in a read-only transaction; return those that failed. Raises ConfigError for invalid SQL."""
    await connection.execute(f"set statement_timeout = {TIMEOUT_MS}".encode())
    failed = []
    for name, query in checks.items():
        try:
            count, rows = await _rows(connection, query)
        except psycopg.Error as error:
            raise ConfigError(f"PostgreSQL does not take {CHECKS}[{name!r}]: {reason(error, query)}") from None
        if count is None:
            raise ConfigError(f"{CHECKS}[{name!r}] is no query: it returns no rows, not even none")
        if count:
            failed.append(FailedCheck(name, count, rows))
    return failed


async def _rows(connection: psycopg.AsyncConnection[Any], query: str) -> tuple[int | None, list[dict[str, str]]]:
    """Return the number of rows and the first of them; None if the statement returns no rows by nature."""
    async with connection.transaction(force_rollback=True), connection.cursor(row_factory=dict_row) as cursor:
        await connection.execute("set transaction read only")
        await cursor.execute(query.encode())
        if cursor.description is None:
            return None, []
        rows = await cursor.fetchmany(SHOWN_MAX)
        return cursor.rowcount, [{column: str(value) for column, value in row.items()} for row in rows]


def reason(error: psycopg.Error, statement: str) -> str:
    """Return PostgreSQL's error for `statement` on one line, with the position."""
    text = " ".join((error.diag.message_primary or str(error)).split())
    if error.diag.statement_position is None:
        return text
    number = statement.count("\n", 0, int(error.diag.statement_position)) + 1
    return f"{text} (its line {number})"
