"""The commands about conflicts say what is wrong with their arguments before they ask anybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oncecast.cli import conflicts
from oncecast.core.errors import ConfigError

NOBODY = {"listener": "http://127.0.0.1:1", "json": False}


@pytest.mark.parametrize(
    ("command", "cursors", "flags", "said"),
    [
        (conflicts.replay, (), {}, "name conflicts, or choose them"),
        (conflicts.replay, ("e1:1",), {"all": True}, "name conflicts, or choose them"),
        (conflicts.replay, ("e1:1",), {"source": "/s"}, "name conflicts, or choose them"),
        (conflicts.replay, ("x",), {}, "'x' is not a conflict"),
        (conflicts.replay, (), {"all": True, "new_id": "a"}, "--new-id"),
        (conflicts.replay, ("e1:1", "e1:2"), {"new_id": "a"}, "--new-id"),
        (conflicts.discard, (), {}, "name conflicts, or choose them"),
        (conflicts.discard, ("e1:1", "e1:2"), {}, "2 conflicts would be discarded: say --yes"),
        (conflicts.restore, ("e1",), {}, "'e1' is not a conflict"),
        (conflicts.show, ("e1:x",), {}, "is not a conflict"),
        (conflicts.list_, (), {"limit": 0}, "--limit"),
        (conflicts.list_, (), {"replayed": True, "discarded": True}, "exclude each other"),
    ],
)
def test_arguments_that_are_not_conflicts_are_refused_with_the_expected_form(
    command: Callable[..., Any], cursors: tuple[str, ...], flags: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        command(*cursors, **flags, **NOBODY, data=tmp_path)
