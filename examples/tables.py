"""Create the tables of an example when a listener starts, in the database of the listener."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg

from oncecast import ConfigError


def tables(sql: str) -> Callable[[], AsyncIterator[None]]:
    """Return a lifespan that runs `sql` at every start, so it must be repeatable. Listeners take turns."""

    async def made() -> AsyncIterator[None]:
        await make(sql)
        yield

    return made


async def make(sql: str) -> None:
    """Run `sql` in one transaction."""
    async with await psycopg.AsyncConnection.connect(database_url(), connect_timeout=5) as connection:
        await connection.execute("select pg_advisory_xact_lock(hashtext('tables of the examples'))")
        await connection.execute(sql)


def database_url() -> str:
    """Return the URL as a listener reads it: `oncecast up` passes a file, because environments are visible to others.

    Raises ConfigError if neither variable is set.
    """
    if url := os.environ.get("DATABASE_URL"):
        return url
    if file := os.environ.get("DATABASE_URL_FILE"):
        return Path(file).read_text("utf-8").strip()
    raise ConfigError(
        "set DATABASE_URL, or DATABASE_URL_FILE: of --database-url only the listener hears, not this example"
    )
