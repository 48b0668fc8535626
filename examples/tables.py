"""Makes an example's tables when one of its listeners starts, in the database that the listener was told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg

from oncecast import ConfigError


def tables(sql: str) -> Callable[[], AsyncIterator[None]]:
    """A lifespan that runs `sql`, which has to bear being run at every start; two listeners take turns."""

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
    """As a listener finds it: `oncecast up` gives the name of a file, since environments can be seen by others.

    Raises ConfigError where neither is set.
    """
    if url := os.environ.get("DATABASE_URL"):
        return url
    if file := os.environ.get("DATABASE_URL_FILE"):
        return Path(file).read_text("utf-8").strip()
    raise ConfigError(
        "set DATABASE_URL, or DATABASE_URL_FILE: of --database-url only the listener hears, not this example"
    )
