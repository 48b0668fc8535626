"""The reference pages are what the code says: after a change of the code, `make reference` writes them again."""

from __future__ import annotations

import runpy
from difflib import unified_diff
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = runpy.run_path(str(ROOT / "tools" / "reference.py"))["pages"]()


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["oncecast"])  # cyclopts shows 'python -m pytest' in the usage of commands
    written = (ROOT / "docs" / "reference" / name).read_text("utf-8").splitlines()
    difference = list(unified_diff(written, PAGES[name]().splitlines(), lineterm="", n=0))
    assert not difference, f"docs/reference/{name} is out of date: run 'make reference'"


def test_every_metric_is_in_the_reference_once() -> None:
    lines = [line for line in PAGES["metrics.md"]().splitlines() if line.startswith("| `oncecast_")]
    names = [line.split("`")[1] for line in lines]
    assert len(names) == len(set(names)) > 30
