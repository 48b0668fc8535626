"""The alert rules and the dashboard are what the code says, and ask only for metrics that exist."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "monitoring.py"))
FILES: dict[Path, str] = TOOL["files"]()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_what_the_code_writes(file: Path) -> None:
    assert file.read_text("utf-8") == FILES[file], f"{file.name} is out of date: run 'make reference'"


def test_queries_name_only_metrics_of_the_catalogue() -> None:
    assert TOOL["unknown_names"]() == set()


def test_each_alert_has_a_name_of_its_own() -> None:
    names = [alert.name for alert in TOOL["ALERTS"]]
    assert len(set(names)) == len(names)
