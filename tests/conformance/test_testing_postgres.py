"""With `postgres=` a TestListener works on a real PostgreSQL, in a database of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from oncecast import App, Event, Transaction
from oncecast.core.errors import OncecastError, StartError
from oncecast.embedded.guard import runs
from oncecast.testing import MakeTestListener, NotEnded, TestListener, servers
from tests.support.stacks import until

SHOP = App("shop")


@SHOP.on("order.created")
async def reserve(event: Event, tx: Transaction) -> None:
    if await tx.execute("update stock set free = free - 1 where sku = %s and free > 0", (event.data["sku"],)) == 0:
        raise ValueError("sold out")


@pytest.fixture
async def t(postgres_url: str) -> AsyncIterator[TestListener]:
    async with TestListener(SHOP, postgres=postgres_url) as listener:
        await listener.execute("create table stock (sku text, free integer); insert into stock values ('A', 1)")
        yield listener


async def test_effects_are_there_once_and_only_of_what_was_stored(t: TestListener) -> None:
    first = Event.new("order.created", {"sku": "A"})
    results = [await t.send(event) for event in (first, first, Event.new("order.created", {"sku": "A"}))]
    assert [result.outcome for result in results] == ["stored", "duplicate", "dead"]
    assert await t.fetch_all("select * from stock") == [{"sku": "A", "free": 0}]
    statuses = await t.fetch_all("select status, count(*) as n from oncecast.events group by 1 order by 1")
    assert statuses == [{"status": "dead", "n": 1}, {"status": "stored", "n": 1}]


async def test_a_test_can_run_its_own_sql(t: TestListener) -> None:
    assert await t.execute("insert into stock values (%s, %s), ('C', 3)", ("B", 2)) == 2
    assert await t.execute("update stock set free = 9; delete from stock where sku = 'A'") == 1
    assert await t.fetch_one("select free from stock where sku = %(sku)s", {"sku": "B"}) == {"free": 9}
    assert await t.fetch_one("select free from stock where sku = 'none'") is None
    async with await psycopg.AsyncConnection.connect(t.database_url) as connection:
        assert await (await connection.execute("select count(*) from stock")).fetchone() == (2,)


async def test_a_lock_of_the_tests_own_holds_an_event_up_and_costs_no_attempt(t: TestListener) -> None:
    event = Event.new("order.created", {"sku": "A"}, id="1")
    async with await psycopg.AsyncConnection.connect(t.database_url) as other:
        await other.execute("select * from stock for update")
        with pytest.raises(NotEnded, match="lock timeout"):
            await t.send(event)
    result = await t.send(event)
    assert (result.outcome, result.attempts) == ("stored", 1)


async def test_postgresql_answers_by_itself(t: TestListener) -> None:
    with pytest.raises(OncecastError, match=r"t\.execute"):
        t.answer("select 1", [])


async def test_every_test_listener_has_a_database_of_its_own_that_is_gone_afterwards(postgres_url: str) -> None:
    names = []
    for _ in range(2):
        async with TestListener(SHOP, postgres=postgres_url) as t:
            await t.execute("create table stock (sku text)")
            names.append(urlsplit(t.database_url).path.strip("/"))
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        cursor = await connection.execute("select 1 from pg_database where datname = any(%s)", (names,))
        assert (len(set(names)), await cursor.fetchone()) == (2, None)


async def test_a_database_is_gone_too_if_the_application_cannot_begin(postgres_url: str) -> None:
    async def connect() -> None:
        raise ConnectionRefusedError("no mail server")

    async def lifespan() -> AsyncIterator[None]:
        await connect()
        yield

    before = await databases(postgres_url)
    with pytest.raises(StartError, match="no mail server"):
        async with TestListener(App(lifespan=lifespan), postgres=postgres_url):
            pass
    assert await databases(postgres_url) == before


async def databases(url: str) -> set[str]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("select datname from pg_database where datname like 'oncecast_test_%'")
        return {name for (name,) in await cursor.fetchall()}


async def test_an_unreachable_server_is_reported_on_one_line_without_the_password() -> None:
    with pytest.raises(StartError) as raised:
        async with TestListener(SHOP, postgres="postgres://me:secret@127.0.0.1:1/x"):
            pass
    assert "the tests' PostgreSQL: connection" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_role_that_may_not_create_databases_gets_an_error_that_says_so(
    postgres_url: str, schema: str
) -> None:
    parts = urlsplit(postgres_url)
    weak = parts._replace(netloc=f"{schema}:weak@{parts.hostname}:{parts.port}").geturl()
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"create role {schema} login password 'weak'")
        try:
            with pytest.raises(StartError, match="needs CREATEDB"):
                async with TestListener(SHOP, postgres=weak):
                    pass
        finally:
            await connection.execute(f"drop role {schema}")


# --- the embedded one -----------------------------------------------------------------------------------------


def test_an_embedded_postgresql_comes_by_one_argument_and_is_shared(test_listener: MakeTestListener) -> None:
    one, other = test_listener(SHOP, postgres=True), test_listener(SHOP, postgres=True)
    for t in (one, other):
        t.execute("create table stock (sku text, free integer); insert into stock values ('A', 1)")
        assert t.send({"type": "order.created", "sku": "A"}).is_stored
    assert urlsplit(one.database_url).port == urlsplit(other.database_url).port
    assert one.fetch_one("show fsync") == {"fsync": "off"}


async def answers(url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await (await connection.execute("select 1")).fetchone() == (1,)


async def test_a_test_that_is_cancelled_while_the_embedded_server_starts_does_not_stop_it_for_others() -> None:
    await asyncio.to_thread(servers.end_server)
    waiting = [asyncio.create_task(servers.embedded_postgres_url()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    url = await waiting[1]
    assert url == await servers.embedded_postgres_url()
    assert await answers(url)


async def test_callers_that_wait_for_a_failed_start_get_its_error_and_the_next_caller_starts_again() -> None:
    await asyncio.to_thread(servers.end_server)
    with pytest.raises(StartError, match=r"postgres ended with status 1: .*no_such_setting"):
        await servers.embedded_postgres_url({"no_such_setting": "on"})
    assert await answers(await servers.embedded_postgres_url())


HOLDING = """
import asyncio, sys
from oncecast import App
from oncecast.testing import TestListener

async def main():
    async with TestListener(App(), postgres=True) as t:
        (row,) = await t.fetch_all("select pg_backend_pid() as pid, current_setting('data_directory') as folder")
        with open(f"/proc/{row['pid']}/stat") as stat:
            print(stat.read().rpartition(") ")[2].split()[1], flush=True)
        if "stay" in sys.argv:
            await asyncio.Event().wait()

asyncio.run(main())
"""


def holding(*arguments: str) -> subprocess.Popen[str]:
    """A process with an embedded PostgreSQL, whose process id it prints."""
    command = [sys.executable, "-c", HOLDING, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc for the server's process")
async def test_the_embedded_server_ends_with_its_process_at_once_and_even_if_that_is_killed() -> None:
    for arguments, end in (((), None), (("stay",), signal.SIGKILL)):
        with holding(*arguments) as process:
            assert process.stdout is not None
            server = int(await asyncio.to_thread(process.stdout.readline))
            if end is not None:
                process.send_signal(end)
            assert await asyncio.to_thread(process.wait, 15) in (0, -signal.SIGKILL)

        async def is_gone(server: int = server) -> bool:
            return not runs(server)

        assert await until(is_gone, 20.0)


def test_where_the_extra_is_missing_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['embedded_postgres'] = None\n"
        "from oncecast import App; from oncecast.testing import SyncTestListener\n"
        "try: SyncTestListener(App(), postgres=True).__enter__()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    reported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert reported.strip() == ("StartError the embedded servers are not installed: pip install 'oncecast[embedded]'")
