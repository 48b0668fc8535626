"""Starting: tried again for a while, given up on in one line, and never a stack trace."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from oncecast.embedded.ports import free_port
from tests.support.stacks import until

QUICK = {"START_ATTEMPTS": "3", "START_RETRY_DELAY": "100ms", "DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_DELAY": "100ms"}


@asynccontextmanager
async def starting(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oncecast", *arguments),
        cwd=folder,
        env={**os.environ, **QUICK, "INSTANCE_ID": "it", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[str], list[str]]:
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    return process.returncode, out.decode().splitlines(), err.decode().splitlines()


async def test_a_failing_start_is_retried_and_ends_with_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with starting(tmp_path, "producer", PORT=str(port)) as process:
            status, out, err = await ended(process)
    assert (status, len(out), len(err)) == (1, 2, 1)
    assert f"❌ Cannot start it yet: cannot listen on 127.0.0.1 port {port}" in out[0]
    assert [line[-1] for line in out] == ["2", "1"]
    assert err[0].startswith(f"oncecast: cannot listen on 127.0.0.1 port {port}")
    assert err[0].endswith("choose another with --port or PORT")


async def test_what_was_in_the_way_may_go_away_meanwhile(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment = {"PORT": str(port), "START_ATTEMPTS": "100"}
        async with starting(tmp_path, "producer", **environment) as process, httpx2.AsyncClient() as client:
            assert process.stdout is not None
            await process.stdout.readline()
            other.close()

            async def ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success
                except httpx2.TransportError:
                    return False

            await until(ready)
            process.send_signal(signal.SIGTERM)
            assert (await ended(process))[0] == 0


async def test_a_listener_tries_its_database_first_and_names_the_setting_but_no_secret(tmp_path: Path) -> None:
    url = f"postgres://user:hunter2@127.0.0.1:{free_port()}/db"
    async with starting(tmp_path, "listener", PORT="0", DATABASE_URL=url, START_ATTEMPTS="1") as process:
        status, out, err = await ended(process)
    assert (status, len(out), len(err)) == (1, 2, 1)
    assert re.search(
        r" ▶️ Oncecast listener \S+ started in it: pid \d+, http://127.0.0.1:\d+, group oncecast$", out[0]
    )
    assert "(tried 2 times); check DATABASE_URL" in err[0]
    assert "hunter2" not in "".join(out + err)


async def test_a_role_that_may_not_create_its_schema_gets_the_missing_grant(
    tmp_path: Path, postgres_url: str, schema: str
) -> None:
    database = urlsplit(postgres_url)
    url = database._replace(netloc=f"{schema}:a-password@{database.netloc.rpartition('@')[2]}").geturl()
    environment = {"PORT": "0", "DATABASE_URL": url, "LISTENER_GROUP": schema, "START_ATTEMPTS": "1"}
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"create role {schema} login password 'a-password'")
        async with starting(tmp_path, "listener", **environment) as process:
            status, _, err = await ended(process)
        assert (status, len(err)) == (1, 1)
        assert err[0].startswith(f"oncecast: PostgreSQL: there is no schema {schema}, and the role {schema} may not")
        assert f"'create schema {schema} authorization {schema}'" in err[0]
        assert "'oncecast migrate --dry-run'" in err[0]
        await connection.execute(f"create schema {schema}")
        async with starting(tmp_path, "listener", **environment) as process:
            status, _, err = await ended(process)
        assert (status, len(err)) == (1, 1)
        assert f"the schema {schema} lacks the migrations 0001, " in err[0]
        assert f"the role {schema} may not create it (permission denied for schema {schema})" in err[0]


FAILING = """
from collections.abc import AsyncIterator
from oncecast import App

async def lifespan() -> AsyncIterator[None]:
    raise ConnectionError("no route")
    yield

app = App("shop", lifespan=lifespan)
"""


async def test_a_lifespan_that_fails_is_a_start_that_fails(tmp_path: Path, postgres_url: str, schema: str) -> None:
    (tmp_path / "shop.py").write_text(FAILING)
    environment = {"PORT": "0", "DATABASE_URL": postgres_url, "LISTENER_GROUP": schema}
    async with starting(tmp_path, "listener", "shop:app", **environment) as process:
        status, out, err = await ended(process)
    assert [line[-1] for line in out if "❌ Cannot start it yet: lifespan" in line] == ["2", "1"]
    assert (status, err) == (1, ["oncecast: lifespan lifespan: ConnectionError: no route"])


async def test_an_example_that_cannot_know_its_database_says_what_to_set(
    tmp_path: Path, postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DATABASE_URL", "DATABASE_URL_FILE"):
        monkeypatch.delenv(variable, raising=False)
    examples = str(Path(__file__).parents[2] / "examples")
    flags = ("--app-dir", examples, "--database-url", postgres_url, "--listener-group", schema, "--port", "0")
    async with starting(tmp_path, "listener", "stock:app", *flags, START_ATTEMPTS="1") as process:
        status, _, err = await ended(process)
    reported = "set DATABASE_URL, or DATABASE_URL_FILE: of --database-url only the listener hears, not this example"
    assert (status, err) == (1, [f"oncecast: lifespan tables.<locals>.made: ConfigError: {reported}"])


async def test_a_process_that_waits_for_its_start_can_be_stopped(tmp_path: Path) -> None:
    url = f"postgres://127.0.0.1:{free_port()}/db"
    environment = {"PORT": "0", "DATABASE_URL": url, "DB_CONNECT_ATTEMPTS": "1000", "DB_CONNECT_DELAY": "1h"}
    async with starting(tmp_path, "listener", **environment) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        status, _, err = await ended(process)
    assert (status, err) == (0, [])


HANGING = """
import asyncio
from collections.abc import AsyncIterator
from oncecast import App

async def lifespan() -> AsyncIterator[None]:
    {start}
    print("begun", flush=True)
    yield
    {end}

app = App("shop", lifespan=lifespan)
"""


async def said(process: asyncio.subprocess.Process, text: str) -> None:
    """Until it has."""
    assert process.stdout is not None
    async with asyncio.timeout(120):
        while text not in (line := (await process.stdout.readline()).decode()):
            assert line, "it ended"


async def test_a_lifespan_that_hangs_at_its_start_can_be_stopped(
    tmp_path: Path, postgres_url: str, schema: str
) -> None:
    connect = "print('connecting', flush=True); await asyncio.Event().wait()"
    (tmp_path / "shop.py").write_text(HANGING.format(start=connect, end="print('never')"))
    environment = {"PORT": "0", "DATABASE_URL": postgres_url, "LISTENER_GROUP": schema}
    async with starting(tmp_path, "listener", "shop:app", **environment) as process:
        await said(process, "connecting")
        process.send_signal(signal.SIGTERM)
        status, out, err = await ended(process)
    assert (status, err) == (0, [])
    assert "never" not in out


async def test_a_lifespan_that_does_not_end_is_cancelled_and_logged(
    tmp_path: Path, postgres_url: str, schema: str
) -> None:
    (tmp_path / "shop.py").write_text(HANGING.format(start="pass", end="await asyncio.Event().wait()"))
    environment = {"PORT": "0", "DATABASE_URL": postgres_url, "LISTENER_GROUP": schema, "DRAIN_TIMEOUT": "300ms"}
    async with starting(tmp_path, "listener", "shop:app", **environment) as process:
        await said(process, "begun")
        process.send_signal(signal.SIGTERM)
        status, out, err = await ended(process)
    assert (status, err) == (0, [])
    assert out[-1].endswith("⚠️ Lifespan lifespan of it did not end within 0.3 s (DRAIN_TIMEOUT): it was cut short")


async def test_invalid_settings_are_reported_together_one_line_each(tmp_path: Path) -> None:
    async with starting(tmp_path, "producer", PORT="x", EVENT_MAX_BYTES="lots", HOST="0.0.0.0") as process:
        status, out, err = await ended(process)
    assert (status, out, len(err)) == (1, [], 2)
    async with starting(tmp_path, "producer", HOST="0.0.0.0") as process:
        status, out, err = await ended(process)
    assert (status, out, len(err)) == (1, [], 1)
    assert "ALLOW_NO_TOKEN=1" in err[0]


async def test_two_producers_never_share_a_journal(tmp_path: Path) -> None:
    async with starting(tmp_path, "producer", PORT="0") as first:
        assert first.stdout is not None
        await first.stdout.readline()
        async with starting(tmp_path, "producer", PORT="0") as second:
            status, _, err = await ended(second)
    assert status == 1
    assert err == [
        "oncecast: the journal journal.db is in use by another process: give each producer a journal of its own"
    ]
