"""The dead-letter log is appended to durably, and an incomplete line does not damage the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oncecast.core.errors import Unavailable
from oncecast.stores.dead_letter_file import DeadLetterFile

LINES = [b'{"n":1}', b'{"n":2}']


async def test_lines_are_appended_for_their_owner_only(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path / "failed_events.log")
    await file.append(LINES)
    await file.append([b'{"n":3}'])
    assert file.path.read_text() == '{"n":1}\n{"n":2}\n{"n":3}\n'
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kept_bytes", range(len(LINES[1]) + 2))
async def test_an_incomplete_last_line_does_not_damage_the_others(tmp_path: Path, kept_bytes: int) -> None:
    file = DeadLetterFile(tmp_path / "failed_events.log")
    await file.append(LINES)
    whole = len(LINES[0]) + 1
    file.path.write_bytes(file.path.read_bytes()[: whole + kept_bytes])
    await file.append([b'{"n":3}'])
    lines = file.path.read_bytes().split(b"\n")
    assert json.loads(lines[0]) == {"n": 1}
    assert json.loads(lines[-2]) == {"n": 3}
    assert lines[-1] == b""


async def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot write"):
        await DeadLetterFile(tmp_path / "nowhere" / "failed_events.log").append(LINES)
