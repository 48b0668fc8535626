"""Copy a journal's file while its producer is down, and read the events behind the copy."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from oncecast.core.wire import Events, decode_server_frame, events_frame
from oncecast.journal import file


def last_offset(journal: Path) -> int:
    """Return the newest offset of a journal, 0 if it is empty."""
    with closing(file.open_file(journal, read_only=True)) as connection:
        found: int | None = connection.execute("select max(first_offset + count - 1) from batches").get
        return found or 0


def events_behind(journal: Path, last: int) -> list[bytes]:
    """Return the journal's events behind offset `last`, as JSON."""
    events: list[bytes] = []
    with closing(file.open_file(journal, read_only=True)) as connection:
        for batch in file.read(connection, last):
            frame = decode_server_frame(events_frame(batch.first_offset, batch.at_us, batch.body))
            if isinstance(frame, Events):
                events += [bytes(event) for event in frame.events[max(0, last + 1 - batch.first_offset) :]]
    return events


def copy_journal(journal: Path, folder: Path) -> None:
    """Copy the journal with its write-ahead log, which stays when the producer exits while another process reads.

    The log's index is removed: it belongs to the file that is replaced.
    """
    folder.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        there, copy = Path(f"{journal}{suffix}"), folder / f"{journal.name}{suffix}"
        copy.unlink(missing_ok=True)
        if suffix != "-shm" and there.exists():
            shutil.copyfile(there, copy)
