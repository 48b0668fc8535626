"""A journal is put back to a copy, and what it loses by that is known."""

from __future__ import annotations

from pathlib import Path

import msgspec

from oncecast.chaos.copies import copy_journal, events_behind, last_offset
from oncecast.clock import SYSTEM_CLOCK
from oncecast.event import Event
from oncecast.journal import SqliteJournal


async def append(path: Path, *batches: list[str]) -> None:
    """By a process that ends then."""
    journal = await SqliteJournal.open(path, SYSTEM_CLOCK, record=lambda _telemetry: None)
    for ids in batches:
        await journal.append([msgspec.json.encode(Event.new("tick", id=id_)) for id_ in ids])
    await journal.close()


def ids(events: list[bytes]) -> list[str]:
    return [Event.from_json(event).id for event in events]


async def test_a_journal_that_is_put_back_has_lost_what_came_after_its_copy(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await append(path, ["1", "2"])
    last = last_offset(path)
    copy_journal(path, tmp_path / "copy")
    assert (last, events_behind(path, last)) == (2, [])
    await append(path, ["3"], ["4", "5"])
    assert ids(events_behind(path, last)) == ["3", "4", "5"]
    assert ids(events_behind(path, 4)) == ["5"], "from the middle of a batch"
    copy_journal(tmp_path / "copy" / path.name, tmp_path)
    assert (last_offset(path), events_behind(path, last)) == (2, [])


async def test_a_journal_without_events_ends_at_0(tmp_path: Path) -> None:
    await append(tmp_path / "journal.db")
    assert last_offset(tmp_path / "journal.db") == 0
