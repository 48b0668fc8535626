"""The fixture `test_listener` is available without import, and costs nothing if unused."""

from __future__ import annotations

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
