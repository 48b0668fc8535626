"""No setting of server, database or role changes what a listener does, or raises an alarm."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import TransactionConflict
from oncecast.core.outcomes import Outcome
from oncecast.core.transaction import Transaction
from oncecast.stores import postgres
from oncecast.stores.postgres import Database, PostgresEvents
from oncecast.stores.postgres.session import EVERY_SESSION, OWN_SESSION
from tests.support.places import arrival
from tests.support.postgres_settings import HARMLESS, NASTY
from tests.support.whole_round import LIMITS, SCHEMA, prepare, whole_round

MakeDatabase = Callable[[Mapping[str, str | Sequence[str]]], Awaitable[str]]
LIMITED = ("application_name", "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
"""Set from the listener's own settings."""
SHADOW_FUNCTIONS = """
do $do$ declare f record; begin
    for f in select * from pg_proc where pronamespace = 'pg_catalog'::regnamespace
        and proname = any(string_to_array(current_setting('shadow.names'), ',')) and prokind in ('f', 'a')
    loop begin
        execute format('create function wrong.%I(%s) returns %s language plpgsql as $$ begin raise ''wrong''; end $$',
            f.proname, pg_get_function_identity_arguments(f.oid), pg_get_function_result(f.oid));
    exception when others then null; end; end loop;
end $do$
"""
"""A function of the same name and arguments in the schema `wrong`, for each of these that is built in."""


def _sql_files() -> Sequence[Any]:
    folder = resources.files(postgres).joinpath("sql")
    return [folder.joinpath("queries.sql"), *folder.joinpath("migrations").iterdir()]


@pytest.fixture
async def database_with(postgres_url: str) -> AsyncIterator[MakeDatabase]:
    """A database of its own with these settings; dropped at the end."""
    names: list[str] = []

    async def make(settings: Mapping[str, str | Sequence[str]]) -> str:
        name = f"settings_{secrets.token_hex(6)}"
        url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        await _execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        names.append(name)
        await prepare(url)
        for setting, value in settings.items():
            values = sql.SQL(", ").join(map(sql.Literal, [value] if isinstance(value, str) else value))
            await _execute(
                sql.SQL("alter database {} set {} to {}").format(
                    sql.Identifier(name), sql.Identifier(setting), values
                )
            )
        return url

    async def _execute(statement: sql.Composed) -> None:
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
            await connection.execute(statement)

    yield make
    for name in names:
        await _execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


_usual: dict[str, Any] = {}


@pytest.fixture
async def usual(database_with: MakeDatabase) -> dict[str, Any]:
    """What a round brings where nobody has set anything."""
    if not _usual:
        _usual.update(await whole_round(await database_with({})))
    return _usual


async def known_settings(url: str) -> dict[str, str]:
    """The settings of this server that a session can have, each with its context."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(
            "select name, context from pg_settings"
            " where context in ('user', 'superuser', 'backend', 'superuser-backend') and name !~ '[.]'"
        )
        return dict(await cursor.fetchall())


async def test_every_setting_that_a_session_can_have_is_set_or_known_to_change_nothing(postgres_url: str) -> None:
    """A new version of PostgreSQL has new ones: say in `postgres_settings`, or in `session`, what becomes of them."""
    ours = {*EVERY_SESSION, *OWN_SESSION, *LIMITED, "synchronous_commit", "search_path"}
    harmless = {name for names in HARMLESS.values() for name in names.split()}
    unknown = set(await known_settings(postgres_url)) - ours - harmless
    assert not unknown


@pytest.mark.parametrize("nth", range(max(map(len, NASTY.values()))))
async def test_no_settings_change_anything_of_a_round(
    database_with: MakeDatabase, usual: dict[str, Any], postgres_url: str, nth: int
) -> None:
    known = await known_settings(postgres_url)
    nasty = {name: values[nth % len(values)] for name, values in NASTY.items() if name in known}
    assert await whole_round(await database_with(nasty)) == usual


async def test_options_of_the_url_and_of_the_environment_change_nothing_of_a_round(
    database_with: MakeDatabase, usual: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    url = await database_with({})
    options = "options=-c%20IntervalStyle%3Diso_8601%20-c%20idle_session_timeout%3D50ms"
    assert await whole_round(f"{url}{'&' if '?' in url else '?'}{options}") == usual


async def test_functions_that_a_search_path_puts_before_the_built_in_ones_change_nothing_of_a_round(
    database_with: MakeDatabase, usual: dict[str, Any]
) -> None:
    url = await database_with({"search_path": ["wrong", "pg_catalog", "public"]})
    text = "".join(file.read_text() for file in _sql_files())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create schema wrong")
        names = ",".join(sorted(set(re.findall(r"\b([a-z_]+)\(", text))))
        await connection.execute("select set_config('shadow.names', %s, false)", (names,))
        await connection.execute(SHADOW_FUNCTIONS)
        cursor = await connection.execute("select proname from pg_proc where pronamespace = 'wrong'::regnamespace")
        assert len(await cursor.fetchall()) > 20
    assert await whole_round(url) == usual


async def test_handlers_keep_the_settings_that_their_role_was_given_but_no_session_ends_because_it_is_idle(
    database_with: MakeDatabase,
) -> None:
    given = {
        "TimeZone": "Asia/Tokyo",
        "default_transaction_isolation": "serializable",
        "idle_session_timeout": "2s",
    }
    url = await database_with({**given, "search_path": ["shop", "public"]})
    database = Database(url, SYSTEM_CLOCK, schema=SCHEMA, instance="a", token="a" * 16, limits=LIMITS)
    await database.open()
    await database.migrate()
    found: list[Any] = []

    async def look(tx: Transaction) -> None:
        names = ("TimeZone", "transaction_isolation", "search_path", "idle_session_timeout")
        for name in names:
            found.append(await tx.fetch_one("select current_setting(%s) as it", (name,)))

    assert await PostgresEvents(database).process(arrival(1), look) is Outcome.STORED
    await database.close()
    assert [row["it"] for row in found] == ["Asia/Tokyo", "serializable", "shop, public", "0"]


async def test_a_handler_whose_transaction_cannot_be_serialised_is_tried_again_at_no_cost(
    database_with: MakeDatabase,
) -> None:
    database = Database(
        await database_with({"default_transaction_isolation": "serializable"}),
        SYSTEM_CLOCK,
        schema=SCHEMA,
        instance="a",
        token="a" * 16,
        limits=LIMITS,
    )
    await database.open()
    await database.migrate()
    store, both_have_read = PostgresEvents(database), asyncio.Barrier(2)

    async def count_and_write(tx: Transaction) -> None:
        await tx.fetch_one("select count(*) from public.effects")
        await both_have_read.wait()
        await tx.execute("insert into public.effects values ('one more')")

    attempts = [store.process(arrival(n), count_and_write) for n in (1, 2)]
    ended = await asyncio.gather(*attempts, return_exceptions=True)
    await database.close()
    assert [type(one) for one in ended if one is not Outcome.STORED] == [TransactionConflict]


async def test_no_setting_lets_a_handler_take_the_row_of_its_event_away(database_with: MakeDatabase) -> None:
    url = await database_with({"session_replication_role": "replica"})
    database = Database(url, SYSTEM_CLOCK, schema=SCHEMA, instance="a", token="a" * 16, limits=LIMITS)
    await database.open()
    await database.migrate()

    async def delete(tx: Transaction) -> None:
        await tx.execute(f"delete from {SCHEMA}.events")

    with pytest.raises(psycopg.errors.RaiseException, match="may not take away the row"):
        await PostgresEvents(database).process(arrival(1), delete)
    await database.close()


async def test_a_commit_is_as_durable_as_the_role_asks_and_never_less(database_with: MakeDatabase) -> None:
    for given, used in {"off": "on", "local": "on", "remote_apply": "remote_apply"}.items():
        url = await database_with({"synchronous_commit": given})
        database = Database(url, SYSTEM_CLOCK, schema=SCHEMA, instance="a", token="a" * 16, limits=LIMITS)
        async with await database.connect() as connection:
            cursor = await connection.execute("show synchronous_commit")
            assert await cursor.fetchone() == (used,)
        await database.close()


async def test_the_handlers_document_names_every_setting_that_handlers_find_changed() -> None:
    document = (Path(__file__).parents[2] / "docs/reference/handlers.md").read_text("utf-8")
    missing = {name for name in (*EVERY_SESSION, *LIMITED, "synchronous_commit") if f"`{name}`" not in document}
    assert not missing
