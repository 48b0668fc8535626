"""The wheel, alone in a clean environment outside the checkout, is all that a user needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVENTS = [{"id": f"e{n}", "type": "tick", "n": n} for n in range(100)]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `oncecast`, of the wheel that `make dist` builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=60)
    install = [str(environment / "bin" / "pip"), "install", "--quiet", f"{wheel}[embedded]"]
    subprocess.run(install, check=True, capture_output=True, timeout=240)
    return environment / "bin" / "oncecast"


@pytest.mark.timeout(400)
def test_the_wheel_brings_sql_lua_and_page_and_runs_up_and_send(command: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    up = [str(command), "up", "--port", "0", "--listener-port", "0", "--json"]
    with subprocess.Popen(up, cwd=tmp_path, env=clean, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            started = [json.loads(running.stdout.readline()) for _ in range(5)]
            addresses = {process["name"]: process["address"] for process in started}
            (tmp_path / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
            send = [str(command), "send", "events.ndjson", "--to", addresses["producer"], "--json"]
            sent = subprocess.run(send, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60)
            assert json.loads(sent.stdout)["accepted"] == len(EVENTS), sent.stderr
            assert stored_ids(command, clean, addresses["listener-b"]) == {event["id"] for event in EVENTS}
            page = fetch(addresses["producer"] + "/", clean, command)
            assert b"<!doctype html>" in page.lower()
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=60) == 0


def stored_ids(command: Path, clean: dict[str, str], listener: str) -> set[str]:
    deadline_s = time.monotonic() + 30
    while True:
        answer = json.loads(fetch(f"{listener}/api/events?limit=1000", clean, command))
        ids = {row["event"]["id"] for row in answer["events"]}
        if len(ids) == len(EVENTS) or time.monotonic() > deadline_s:
            return ids


def fetch(url: str, clean: dict[str, str], command: Path) -> bytes:
    python = command.with_name("python")
    code = f"import httpx2, sys; sys.stdout.buffer.write(httpx2.get({url!r}).raise_for_status().content)"
    return subprocess.run([str(python), "-c", code], env=clean, capture_output=True, timeout=30, check=True).stdout


def test_the_wheel_brings_the_pytest_plugin(command: Path, tmp_path: Path) -> None:
    """Its module is found by the name of its entry point; pytest itself is the user's."""
    code = (
        "from importlib import metadata, util\n"
        "(plugin,) = metadata.entry_points(group='pytest11', name='pytest_oncecast')\n"
        "assert util.find_spec(plugin.module) is not None and plugin.name == plugin.module\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([str(command.with_name("python")), "-c", code], cwd=tmp_path, env=clean, check=True, timeout=30)
