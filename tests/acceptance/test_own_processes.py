"""What only a Python process of its own shows: what it imports, what it prints, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NoReturn

import pytest

from oncecast import Retry


def test_pydantic_is_imported_only_by_applications_that_use_it() -> None:
    code = "import sys, oncecast; oncecast.Event.new('t', {'n': 1}); assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def run_pytest(folder: Path, *, test: str) -> str:
    """With no other plugin."""
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_oncecast"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_a_test_run_that_does_not_use_it_loads_no_oncecast(tmp_path: Path) -> None:
    test = "import sys\n\ndef test_it():\n    assert 'oncecast' not in sys.modules\n"
    assert "1 passed" in run_pytest(tmp_path, test=test)


def test_no_plugin_for_coroutines_is_needed_and_nothing_is_left_over(tmp_path: Path) -> None:
    test = (
        "from oncecast import App, Event\n"
        "from oncecast.testing import TestListener\n"
        "app = App()\n"
        "@app.on('t')\n"
        "async def handler(event: Event) -> None: ...\n"
        "def test_it(test_listener):\n"
        "    assert test_listener(app).send({'type': 't'}).is_stored\n"
    )
    reported = run_pytest(tmp_path, test=test)
    assert "1 passed" in reported, reported
    assert "warning" not in reported.lower(), reported


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["status", "--json"]])
def test_a_full_disk_below_the_output_of_a_command_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "oncecast", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert "No space left on device" in ended.stderr


BLOCKED = """
import asyncio, time
from oncecast.clock import SYSTEM_CLOCK
from oncecast.tasks import Essentials, LastResort

async def fail(): raise ValueError("out of range")

async def main():
    essentials = Essentials(SYSTEM_CLOCK, end_within_s=0.2, last_resort=LastResort())
    essentials.start(fail(), "claim loop")
    asyncio.get_running_loop().call_later(0.1, lambda: [time.sleep(1) for _ in range(600)])
    async def endless():
        while True:
            try: await asyncio.sleep(3600)
            except asyncio.CancelledError: pass
    await essentials.run(endless())

asyncio.run(main())
"""


def test_the_process_ends_in_time_although_its_event_loop_is_blocked() -> None:
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "oncecast: claim loop failed: ValueError: out of range"


def test_an_error_in_a_process_pool_is_raised_in_the_handler() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(Retry, match="closed") as raised,
    ):
        pool.submit(fail, Retry("the bank is closed", after="2m")).result(timeout=60)
    assert raised.value.after_s == 120.0


def fail(error: Exception) -> NoReturn:
    raise error
