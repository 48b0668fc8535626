"""A listener runs as a role that may do nothing but read and write its rows; each right that is missing is named."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import StartError
from oncecast.embedded.postgres import _parts
from oncecast.stores.postgres import Database, PostgresEvents
from tests.support.whole_round import LIMITS, SCHEMA, prepare, whole_round

PSQL = _parts()[0] / "pginstall/bin/psql"
DOCUMENT = Path(__file__).parents[2] / "docs/how-to/least-privilege.md"


class Place(NamedTuple):
    """A database of the test's own, by its owner and by a role that may connect only."""

    owner_url: str
    url: str
    role: str

    async def run(self, *statements: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.owner_url, autocommit=True) as connection:
            for statement in statements:
                await connection.execute(statement.encode())

    def database(self, url: str | None = None, token: str = "b" * 16) -> Database:
        return Database(url or self.url, SYSTEM_CLOCK, schema=SCHEMA, instance="b", token=token, limits=LIMITS)


@pytest.fixture
async def place(postgres_url: str) -> AsyncIterator[Place]:
    server, name = urlsplit(postgres_url), secrets.token_hex(6)
    host = server.netloc.rpartition("@")[2]
    owner_url = server._replace(path=f"/least_{name}").geturl()
    role_url = server._replace(netloc=f"app_{name}:a-password@{host}", path=f"/least_{name}").geturl()
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"create database least_{name}")
        await connection.execute(f"create role app_{name} login password 'a-password'")
        await prepare(owner_url)
        place = Place(owner_url, role_url, f"app_{name}")
        await place.run(f"grant select, insert on public.effects to app_{name}")
        yield place
        await connection.execute(f"drop database least_{name} with (force)")
        with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
            await connection.execute(f"drop role app_{name}")


async def oncecast(*arguments: str, url: str) -> str:
    """What the command prints; fails where it does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oncecast", *arguments, "--database-url", url, "--listener-group", SCHEMA),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def psql(script: str, url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(PSQL), "-X", "-q", "-v", "ON_ERROR_STOP=1", url), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, err = await process.communicate(script.encode())
    assert (process.returncode, err) == (0, b"")


async def test_a_schema_that_an_administrator_made_for_the_role_is_enough(place: Place) -> None:
    await place.run(f"create schema {SCHEMA} authorization {place.role}")
    assert (await whole_round(place.url))["sessions ended"] == "silent"


async def test_a_role_with_usage_and_create_on_the_schema_is_enough(place: Place) -> None:
    await place.run(f"create schema {SCHEMA}", f"grant usage, create on schema {SCHEMA} to {place.role}")
    assert (await whole_round(place.url))["replayed"] is True


async def test_what_the_dry_run_prints_is_run_by_psql_and_lets_the_role_do_all_that_a_listener_does(
    place: Place,
) -> None:
    usual = await whole_round(place.owner_url)
    await place.run(f"drop schema {SCHEMA} cascade", "truncate public.effects")
    script = await oncecast("migrate", "--dry-run", url=place.url)
    await psql(script, place.owner_url)
    assert await whole_round(place.url) == usual


async def test_a_dry_run_prints_only_what_is_missing_and_changes_nothing(place: Place) -> None:
    first = await oncecast("migrate", "--dry-run", url=place.owner_url)
    assert first == await oncecast("migrate", "--dry-run", url=place.owner_url)
    await psql(first, place.owner_url)
    again = await oncecast("migrate", "--dry-run", "--grant-to", place.role, url=place.owner_url)
    assert "create " not in again
    assert f'to "{place.role}"' in again
    await psql(again, place.owner_url)
    await place.database().migrate()


async def test_migrate_says_what_it_applied_and_grants_what_a_listener_needs(place: Place) -> None:
    out = await oncecast("migrate", "--grant-to", place.role, url=place.owner_url)
    assert out.startswith("Applied 0001_events.sql.\n")
    assert out.endswith(f"The schema {SCHEMA} is up to date. {place.role} may run listeners.\n")
    assert await oncecast("migrate", url=place.url) == f"The schema {SCHEMA} is up to date.\n"
    assert (await whole_round(place.url))["handled"] == "stored"


async def test_without_a_schema_or_the_right_to_make_one_it_is_said_what_to_run(place: Place) -> None:
    with pytest.raises(StartError) as refused:
        await place.database().migrate()
    assert f"there is no schema {SCHEMA}, and the role {place.role} may not create it" in str(refused.value)
    remedy = re.search(r"'(create schema .*?)'", str(refused.value))
    assert remedy
    await place.run(remedy[1])
    await place.database().migrate()


async def test_a_role_without_the_right_to_migrate_gets_the_list_of_missing_migrations(place: Place) -> None:
    await oncecast("migrate", "--grant-to", place.role, url=place.owner_url)
    await place.run(f"delete from {SCHEMA}.migrations where number = 7")
    with pytest.raises(
        StartError, match=rf"the schema {SCHEMA} lacks the migrations 0007, and the role {place.role}"
    ):
        await place.database().migrate()


@pytest.mark.parametrize(
    ("revoked", "named"),
    [
        ("insert on {s}.outbox from {r}", 'grant insert on "{s}"."outbox" to "{r}"'),
        ("update, delete on {s}.events from {r}", 'grant update, delete on "{s}"."events" to "{r}"'),
        ("usage on schema {s} from {r}", 'grant usage on schema "{s}" to "{r}"'),
        ("select on {s}.migrations from {r}", 'grant select on "{s}"."migrations" to "{r}"'),
        (
            "execute on function {s}.begin_attempt from {r}, public",
            'grant execute on function "{s}"."begin_attempt" to "{r}"',
        ),
    ],
)
async def test_each_right_that_is_missing_is_named_with_the_grant_that_gives_it(
    place: Place, revoked: str, named: str
) -> None:
    await oncecast("migrate", "--grant-to", place.role, url=place.owner_url)
    names = {"s": SCHEMA, "r": place.role}
    await place.run("revoke " + revoked.format(**names))
    with pytest.raises(StartError) as refused:
        await place.database().migrate()
    assert str(refused.value) == (
        f"the role {place.role} lacks rights in the schema {SCHEMA}; as its owner run: {named.format(**names)}"
    )
    await place.run(str(refused.value).partition("run: ")[2])
    await place.database().migrate()


@pytest.mark.parametrize("table", ["orders (id text)", "migrations (id integer, migration text, batch integer)"])
async def test_a_schema_with_tables_of_another_application_is_refused_as_just_that(place: Place, table: str) -> None:
    await place.run(f"create schema {SCHEMA}", f"create table {SCHEMA}.{table}")
    with pytest.raises(StartError) as refused:
        await place.database(place.owner_url).migrate()
    name = table.partition(" ")[0]
    assert f"the schema {SCHEMA} has tables of another application ({name})" in str(refused.value)
    assert "LISTENER_GROUP" in str(refused.value)


async def test_further_tables_in_a_schema_of_oncecasts_are_no_reason_to_refuse_it(place: Place) -> None:
    await place.database(place.owner_url).migrate()
    await place.run(f"create table {SCHEMA}.orders (id text)")
    await place.database(place.owner_url).migrate()


async def is_ended(place: Place, by: str, of: str) -> bool:
    """Whether a listener at the one address ends the session of a listener at the other."""
    survivor, dead = place.database(by, "c" * 16), place.database(of, "d" * 16)
    await survivor.open()
    session = await dead.connect()
    try:
        await PostgresEvents(survivor).end_sessions("d" * 16, silent_s=0.0)
        await session.execute("select 1")
    except psycopg.OperationalError:
        return True
    else:
        return False
    finally:
        await session.close()
        await survivor.close()


async def test_a_listener_ends_the_sessions_of_a_dead_one_of_its_role_without_a_grant(place: Place) -> None:
    await oncecast("migrate", "--grant-to", place.role, url=place.owner_url)
    assert await is_ended(place, by=place.url, of=place.url)


async def test_a_role_that_works_as_another_ends_sessions_too(place: Place) -> None:
    await place.run(
        f"create role {place.role}_owner",
        f"grant {place.role}_owner to {place.role}",
        f"create schema {SCHEMA} authorization {place.role}_owner",
        f"grant select, insert on public.effects to {place.role}_owner",
        f"alter role {place.role} set role = {place.role}_owner",
    )
    assert (await whole_round(place.url))["sessions ended"] == "silent"


async def test_sessions_of_another_role_are_left_alone_unless_the_role_may_signal_them(place: Place) -> None:
    other = f"{place.role}_other"
    await place.run(f"create role {other} login password 'a-password'")
    of = place.url.replace(place.role, other)
    try:
        await oncecast("migrate", "--grant-to", place.role, url=place.owner_url)
        assert not await is_ended(place, by=place.url, of=of)
        await place.run(f"grant pg_signal_backend to {place.role}")
        assert await is_ended(place, by=place.url, of=of)
        assert not await is_ended(place, by=place.url, of=place.owner_url), "that of a superuser"
    finally:
        await place.run(f"drop role {other}")


async def test_the_grants_of_the_document_are_enough(place: Place) -> None:
    """Those that it prints, for its schema `shop` and its role `app`."""
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    grants = "".join(blocks).replace(" app", f" {place.role}")
    assert f"schema {SCHEMA} " in grants
    await psql(await oncecast("migrate", "--dry-run", "--grant-to", "oncecast", url=place.owner_url), place.owner_url)
    await psql("\n".join(line for line in grants.splitlines() if line.startswith("grant")), place.owner_url)
    assert (await whole_round(place.url))["sessions ended"] == "silent"
