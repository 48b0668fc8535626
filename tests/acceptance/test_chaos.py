"""`oncecast chaos` hurts a whole system, and its verdict is the command's status."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.test_recovery import oncecast


async def test_a_short_run_is_valid_and_tells_what_it_did(tmp_path: Path) -> None:
    history = tmp_path / "history.ndjson"
    run = ("chaos", "--seconds", "15", "--seed", "7", "--rate", "500", "--listeners", "2", "--producers", "1")
    status, out, error = await oncecast(*run, "--history", str(history), "--json", within_s=170)
    report = json.loads(out)
    assert (status, report["valid"], report["seed"]) == (0, True, 7), error
    assert report["verdict"]["acknowledged"] > 1_000
    assert report["looked_at"] > 1_000, "the cursors were watched"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert sum(line["what"] == "fault" for line in lines) == report["faults"] > 0
    assert lines[-1]["what"] == "verdict"


async def test_what_cannot_be_meant_is_one_line() -> None:
    status, _, error = await oncecast("chaos", "--faults", "fire")
    assert (status, error) == (
        1,
        "oncecast: --faults: 'fire' will not do; it takes all, or some of kill, stop, pause, cut, freeze, delay,"
        " reset, drop, empty, refuse, full, restore, crash\n",
    )
