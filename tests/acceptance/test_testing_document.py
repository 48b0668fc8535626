"""The page about tests is a folder with tests that pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.documents import blocks

DOCUMENT = Path(__file__).parents[2] / "docs/how-to/test-handlers.md"


def test_every_block_of_the_page_runs(tmp_path: Path) -> None:
    found = blocks(DOCUMENT.read_text("utf-8"))
    assert [block.mark for block in found if not block.mark] == [], "a block that no test runs"
    for block in found:
        (tmp_path / block.mark.removeprefix("run ")).write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "pytest_oncecast", "-p", "pytest_asyncio.plugin"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    reported = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170
    ).stdout
    assert "9 passed" in reported, reported
    assert "warning" not in reported.lower(), reported
