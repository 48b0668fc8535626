"""The embedded stack: data after a restart, the end of its processes, and its messages."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oncecast import Event, Publisher
from oncecast.core.errors import StartError
from oncecast.embedded import Stack
from oncecast.embedded.control import Command, send_command
from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, drained, rows, until

ONCECAST = [sys.executable, "-m", "oncecast"]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ONCECAST, *arguments], capture_output=True, text=True, timeout=60, **options)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return not Path("/proc").is_dir() or "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


async def test_everything_is_there_after_a_restart(stack_of: StackOf) -> None:
    async with stack_of() as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("tick", {"n": n}, id=f"e{n}") for n in range(50)])
        await drained(stack)
        addresses = {name: stack.processes[name].address for name in ("postgres", "valkey")}
    async with stack_of() as stack, Publisher(stack.publish_url) as publisher:
        assert await rows(stack, "select count(*) from oncecast.events") == [(50,)]
        assert {name: stack.processes[name].address for name in addresses} == addresses
        cursor = await publisher.publish(Event.new("tick"))
        assert cursor.offset == 51


async def test_secrets_are_for_their_owner_only_and_in_no_command_line(stack_of: StackOf) -> None:
    async with stack_of() as stack:
        for name in ("postgres.url", "redis.url", "control.sock", "valkey/valkey.conf"):
            assert (stack.data / name).stat().st_mode & 0o077 == 0, name
        password = stack.database_url.split(":")[2].split("@")[0]
        listing = subprocess.run(["ps", "axwwe"], capture_output=True, text=True, check=True).stdout
        assert password not in listing


async def test_a_stopped_process_is_started_again_under_its_address(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        for name in stack.processes:
            address = stack.processes[name].address
            await asyncio.to_thread(send_command, stack.data, Command("stop", name))
            assert stack.processes[name].state == "stopped"
            await asyncio.to_thread(send_command, stack.data, Command("start", name))
            assert (stack.processes[name].state, stack.processes[name].address) == ("running", address)
        state = msgspec.json.decode((stack.data / "stack.json").read_bytes())
        assert {p["name"]: p["pid"] for p in state} == {p.name: p.pid for p in stack.processes.values()}
        with pytest.raises(StartError, match="there are postgres, valkey, producer, listener-a"):
            await asyncio.to_thread(send_command, stack.data, Command("kill", "nobody"))


async def test_a_process_that_ends_without_a_request_is_reported_and_not_restarted(stack_of: StackOf) -> None:
    said: list[str] = []
    async with stack_of(listeners=1, say=said.append) as stack:
        pid = stack.processes["listener-a"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        async def reported() -> object:
            return said

        await until(reported)
        assert said == ["listener-a ended with status -9; start it with: oncecast start listener-a"]


async def test_two_stacks_never_share_a_folder(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        with pytest.raises(StartError, match="another stack runs in"):
            async with Stack(stack.data, producer_port=0, listener_port=0):
                pass


async def test_an_incomplete_cluster_is_created_again(stack_of: StackOf, tmp_path: Path) -> None:
    unfinished = tmp_path / "stack" / "postgres" / "cluster.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with stack_of(listeners=1) as stack:
        assert await rows(stack, "select 1") == [(1,)]
        assert not unfinished.exists()


@pytest.mark.parametrize("option", ["--port", "--listener-port"])
def test_a_port_in_use_is_one_line_and_no_process_keeps_running(option: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ports = {"--port": "0", "--listener-port": "0", option: port}
        command = [part for pair in ports.items() for part in pair]
        answer = run("up", *command, cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr == f"oncecast: port {port} is in use; choose another with {option}\n"
    assert not (tmp_path / ".oncecast").exists()


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_an_invalid_port_is_one_line(port: str, tmp_path: Path) -> None:
    answer = run("up", f"--port={port}", cwd=tmp_path)
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)


def test_commands_without_a_stack_say_how_to_start_one(tmp_path: Path) -> None:
    for verb in ("stop", "start", "kill"):
        answer = run(verb, "listener-a", cwd=tmp_path)
        assert answer.returncode == 1
        assert re.fullmatch(r"oncecast: nothing runs in \.oncecast: 'oncecast up [^\n]*\n", answer.stderr)


async def test_servers_die_with_a_supervisor_that_was_killed_and_a_temporary_folder_goes_too(tmp_path: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(*ONCECAST, "demo", str(events_file(tmp_path)), "--port", "0", "--listener-port", "0", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert demo.stdout is not None
    assert msgspec.json.decode(await demo.stdout.readline())["stored"] == 1
    (folder,) = tmp_path.glob("oncecast-demo-*")
    pids = [process["pid"] for process in msgspec.json.decode((folder / "stack.json").read_bytes())]
    assert len(pids) == 5
    demo.kill()
    await demo.wait()

    async def all_gone() -> bool:
        return not any(is_alive(pid) for pid in pids) and not list(tmp_path.glob("oncecast-*"))

    await until(all_gone, within_s=15)


async def test_ctrl_c_ends_a_demo_cleanly(tmp_path: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(*ONCECAST, "demo", str(events_file(tmp_path)), "--port", "0", "--listener-port", "0", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert demo.stdout is not None
    await demo.stdout.readline()
    demo.send_signal(signal.SIGINT)
    _, said = await demo.communicate()
    assert (demo.returncode, said) == (0, b"It runs on; Ctrl-C ends it.\n")
    assert not list(tmp_path.glob("oncecast-*"))


def events_file(folder: Path) -> Path:
    file = folder / "events.ndjson"
    file.write_text('{"id": "e1"}\n')
    return file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a folder that nobody else may enter")
async def test_as_root_it_runs_in_a_folder_that_only_root_may_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as locked:
        os.chmod(locked, 0o700)
        monkeypatch.setenv("TMPDIR", locked)
        async with Stack(Path(locked) / "stack", listeners=1, producer_port=0, listener_port=0) as stack:
            assert await rows(stack, "select current_user") == [("oncecast",)]
            await stack.stop("postgres")
            await stack.start("postgres")
            assert await rows(stack, "select 1") == [(1,)]


async def test_commands_to_a_stack_say_what_they_did(stack_of: StackOf) -> None:
    async with stack_of() as stack:
        for verb, reported in (("stop", "has stopped"), ("start", "is ready"), ("kill", "is killed")):
            status, out, _ = await oncecast(verb, "listener-b", "--data", str(stack.data))
            assert (status, out.startswith(f"listener-b {reported}"), len(out.splitlines())) == (0, True, 1)
        status, out, _ = await oncecast("dead-letters", "list", "--no-json", "--producer", stack.publish_url)
        assert (status, out) == (0, "There is no dead letter.\n")
        status, out, _ = await oncecast("status", "--data", str(stack.data), "--json")
        states = {entry["name"]: entry["state"] for entry in map(msgspec.json.decode, out.splitlines())}
        assert (status, states["listener-a"], states["listener-b"]) == (2, "ok", "stopped")
