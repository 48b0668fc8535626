"""What holds of all commands together: a flag means the same in each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cyclopts
import pytest

from oncecast import cli
from oncecast.cli import commands
from oncecast.cli.commands import app
from oncecast.core.errors import ConfigError, StartError


def all_of(app: cyclopts.App) -> Iterator[cyclopts.App]:
    """Every command that does something, also those of groups of commands."""
    for name in app:
        if not name.startswith("-"):
            if app[name].default_command is not None:
                yield app[name]
            yield from all_of(app[name])


def flags(app: cyclopts.App) -> dict[str, Any]:
    """The type of each."""
    return {name: argument.hint for argument in app.assemble_argument_collection() for name in argument.names}


def test_data_is_the_folder_of_a_stack_wherever_it_is_a_flag() -> None:
    found = {app.name[0]: flags(app) for app in all_of(app)}
    kinds = {name: flags_["--data"] for name, flags_ in found.items() if "--data" in flags_}
    assert {"up", "edit", "replay", "sql"} <= kinds.keys()
    assert set(kinds.values()) <= {Path, Path | None}
    assert [name for name, flags_ in found.items() if "--stack" in flags_] == []


def test_edited_data_may_be_standard_input_or_start_with_a_hyphen() -> None:
    for text in ("-", "-5"):
        _, edit, _ = app.parse_args(["dead-letters", "edit", "o-1", "--with", text], exit_on_error=False)
        assert edit.arguments["with_"] == text


def test_mistakes_of_several_tasks_are_a_line_each_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> None:
        raise ExceptionGroup("tasks", [ConfigError("PORT is none"), ExceptionGroup("more", [StartError("no room")])])

    monkeypatch.setattr(sys, "argv", ["oncecast", "status"])
    monkeypatch.setattr(commands, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (1, "oncecast: PORT is none\noncecast: no room\n")


def test_a_command_imports_only_what_it_needs() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "oncecast", "--version"]
    imported = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "oncecast" in names
    assert names.isdisjoint({"asyncio", "cyclopts", "httpx2", "psycopg", "redis", "rich", "starlette"})


def test_the_list_of_commands_says_what_each_does() -> None:
    commands.load_all()
    assert [name for name in app if not app[name].help] == []
