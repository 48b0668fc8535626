"""The fixture `test_listener` comes by itself, and costs nothing where nobody uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from oncecast import App, Event
from oncecast.core.errors import OncecastError
from oncecast.testing import MakeTestListener, SyncTestListener, TestListener

ROOT = Path(__file__).parents[3]


def counting(seen: list[str]) -> App:
    app = App()

    @app.on("t")
    async def handler(event: Event) -> None:
        seen.append(event.id)

    return app


def test_tests_that_are_no_coroutines_have_listeners_from_the_fixture(test_listener: MakeTestListener) -> None:
    seen: list[str] = []
    one, other = test_listener(counting(seen)), test_listener(counting(seen))
    assert one.send({"type": "t", "id": "1"}).is_stored
    assert other.send({"type": "t", "id": "1"}).is_stored, "each is a group of its own"
    assert seen == ["1", "1"]


def test_elsewhere_they_are_context_managers() -> None:
    with SyncTestListener(counting([])) as t:
        assert t.send_all([{"type": "t"}, {"type": "t"}])[1].is_stored
        assert (t.emitted, t.statements) == ([], [])


async def test_in_a_coroutine_the_fixture_says_what_to_use_instead(test_listener: MakeTestListener) -> None:
    with pytest.raises(OncecastError, match="async with TestListener"):
        test_listener(App())


def test_pytest_takes_none_of_the_classes_for_tests() -> None:
    assert not TestListener.__test__
    assert not SyncTestListener.__test__


def test_the_plugin_is_an_entry_point_of_its_modules_name() -> None:
    """So that who names it in `pytest_plugins` too does not load it twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"pytest_oncecast": "pytest_oncecast"}
    assert "src/pytest_oncecast.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


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
        "from oncecast import Event, App\n"
        "from oncecast.testing import TestListener\n"
        "app = App()\n"
        "@app.on('t')\n"
        "async def handler(event: Event) -> None: ...\n"
        "def test_it(test_listener):\n"
        "    assert test_listener(app).send({'type': 't'}).is_stored\n"
    )
    told = run_pytest(tmp_path, test=test)
    assert "1 passed" in told, told
    assert "warning" not in told.lower(), told
