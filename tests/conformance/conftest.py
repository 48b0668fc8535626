"""What the suites on a real PostgreSQL share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from oncecast.stores.postgres import PostgresEvents


@pytest.fixture
async def sql(postgres_url: str, schema: str, store: PostgresEvents) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of the test's own, in the schema of its `store`."""
    options = f"-c search_path={schema}"
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True, options=options) as connection:
        yield connection
