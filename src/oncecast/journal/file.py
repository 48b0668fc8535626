"""The journal's file: tables, rows, checksums, and the start of an epoch. Synchronous; for one process at a time.

SQLite with a write-ahead log and `synchronous=FULL`: a commit that has returned is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import apsw

from oncecast.core.clock import Clock
from oncecast.core.errors import JournalCorrupt, JournalUnavailable, StartError
from oncecast.core.journal import JournalBatch, KnownGroup, retired_to
from oncecast.core.wire import Epoch

FORMAT = 1
BUSY_TIMEOUT_MS = 5_000
COUNT_MAX = 1_000_000
"""No row that Oncecast wrote has more events."""
_SCHEMA = """
create table meta (format integer not null, name text not null);
create table epochs (first_offset integer not null, epoch text not null unique);
create table batches (
    first_offset integer primary key, count integer not null, at integer not null, crc integer not null,
    body blob not null);
"""


_GROUPS = """
create table if not exists groups (
    name text primary key, saved integer not null, unseen_s real not null, forgotten integer not null)
"""
_KEY = "create table if not exists secret (key text not null)"
_RETIRE_MAX_BATCHES = 1_000


class Extent(NamedTuple):
    """The contents of a journal: name, secret, epochs and offsets (`last == first - 1` if it is empty)."""

    name: str
    key: str
    epochs: list[Epoch]
    first: int
    last: int
    used_bytes: int
    groups: list[KnownGroup]


def open_file(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """Connect to the journal's file, which must exist.

    This module never opens and closes the file by other means, which would release SQLite's locks in this process.
    """
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    if not read_only:
        connection.execute("pragma journal_mode = wal")
        # rule: every commit of the journal is synced to disk
        connection.execute("pragma synchronous = full")
        connection.execute("pragma wal_autocheckpoint = 4000")
    return connection


def begin_epoch(connection: apsw.Connection, path: Path, clock: Clock) -> Extent:
    """Open the journal: check its end, draw a new epoch and record it durably.

    Raises StartError for a file of another kind, JournalCorrupt if the newest rows are damaged.
    """
    _empty_log(connection, path)
    with connection:
        if not connection.execute("select 1 from sqlite_master where name = 'meta'").get:
            if connection.execute("select 1 from sqlite_master").get:
                raise StartError(f"{path} is a database, but not a journal")
            connection.execute(_SCHEMA)
            connection.execute("insert into meta values (?, ?)", (FORMAT, clock.new_token(8)))
        format_, name = connection.execute("select format, name from meta").get
        if format_ != FORMAT:
            raise StartError(f"the journal {path} has format {format_}; this release reads {FORMAT}")
        first, last = _bounds(connection)
        epochs = [Epoch(epoch, at) for at, epoch in connection.execute("select * from epochs order by rowid")]
        connection.execute(_GROUPS)
        groups = [
            KnownGroup(name, saved, unseen_s, bool(forgotten))
            for name, saved, unseen_s, forgotten in connection.execute("select * from groups")
        ]
        connection.execute(_KEY)
        key = connection.execute("select key from secret").get
        if key is None:
            key = clock.new_token(16)
            connection.execute("insert into secret values (?)", (key,))
        new = Epoch(clock.new_token(8), last + 1)
        connection.execute("insert into epochs (first_offset, epoch) values (?, ?)", (new.first, new.epoch))
    return Extent(name, key, [*epochs, new], first, last, used_bytes(connection), groups)


def _empty_log(connection: apsw.Connection, path: Path) -> None:
    """Copy the write-ahead log into the database, and truncate it.

    After a failed sync, the system may take pages of the log for written that are not on disk. A power cut would
    then also lose everything that is appended after them, synced or not.
    """
    busy, *_ = connection.execute("pragma wal_checkpoint(truncate)").get
    if busy:
        raise JournalUnavailable(f"the journal {path} is being read by another process; it is checked again soon")


def _bounds(connection: apsw.Connection) -> tuple[int, int]:
    first = connection.execute("select min(first_offset) from batches").get
    if first is None:
        # Everything was retired, or nothing was ever written: offsets continue from the newest epoch.
        begun = connection.execute("select max(first_offset) from epochs").get or 1
        return begun, begun - 1
    newest_first = connection.execute("select max(first_offset) from batches").get
    newest = next(read(connection, after=newest_first - 1))
    return first, newest.last_offset


def write(connection: apsw.Connection, batches: Sequence[JournalBatch]) -> None:
    """Write `batches` in one durable transaction; one row, the usual case, takes one call into SQLite."""
    insert = "insert into batches values (?, ?, ?, ?, ?)"
    rows = [(b.first_offset, b.count, b.at_us, checksum(b), b.body) for b in batches]
    if len(rows) == 1:
        connection.execute(insert, rows[0])  # its own transaction; each further call may wait for Python's lock
        return
    with connection:
        connection.executemany(insert, rows)


def used_bytes(connection: apsw.Connection) -> int:
    """Return the bytes in use; the file reuses space of retired batches before it grows."""
    pages = int(connection.execute("pragma page_count").get) - int(connection.execute("pragma freelist_count").get)
    return pages * int(connection.execute("pragma page_size").get)


def keep_groups(connection: apsw.Connection, groups: Sequence[KnownGroup]) -> None:
    """Save `groups` in one durable transaction."""
    rows = [(group.name, group.saved, group.unseen_s, group.forgotten) for group in groups]
    with connection:
        connection.executemany("insert or replace into groups values (?, ?, ?, ?)", rows)


def retire(connection: apsw.Connection, upto: int, *, before_us: int, keep_bytes: int) -> tuple[int, int, bool]:
    """Delete some of the oldest batches; return the first offset left, the bytes used, and whether to continue."""
    surplus_bytes = used_bytes(connection) - keep_bytes
    query = (
        "select first_offset + count - 1, at, length(body) from batches"
        " where first_offset < (select max(first_offset) from batches) order by first_offset limit ?"
    )
    oldest: list[Any] = connection.execute(query, (_RETIRE_MAX_BATCHES,)).fetchall()
    last = retired_to(oldest, upto, before_us=before_us, surplus_bytes=surplus_bytes)
    if last is not None:
        connection.execute("delete from batches where first_offset <= ?", (last,))
    first = connection.execute("select min(first_offset) from batches").get or 1
    return first, used_bytes(connection), len(oldest) == _RETIRE_MAX_BATCHES and last == oldest[-1][0]


def read(connection: apsw.Connection, after: int) -> Iterator[JournalBatch]:
    """Yield the batches that hold offsets after `after`, in order; raises JournalCorrupt."""
    begin = connection.execute("select max(first_offset) from batches where first_offset <= ?", (after + 1,)).get
    query = "select first_offset, count, at, body, crc from batches where first_offset >= ? order by first_offset"
    expected: int | None = None
    for first, count, at_us, body, crc in connection.execute(query, (begin or 0,)):
        if not _is_whole(first, count, at_us, body, crc):
            last = _claimed_last(first, count)
            if last <= after:  # before the requested offsets, and its end cannot be trusted
                continue
            raise JournalCorrupt(f"the journal's offsets {first} to {last} fail their checksum", last)
        batch = JournalBatch(first, count, at_us, body)
        if expected is not None and first != expected:
            raise JournalCorrupt(f"the journal's offsets {expected} to {first - 1} are missing", first - 1)
        expected = batch.last_offset + 1
        if expected > after + 1:
            yield batch


class Damage(NamedTuple):
    """Offsets `first` to `last` cannot be read: their rows are missing or fail their checksum."""

    first: int
    last: int


def damages(connection: apsw.Connection) -> Iterator[Damage]:
    """Check every row, oldest first. The end that a damaged row claims counts only if no row follows it."""
    due: int | None = None
    doubtful_last: int | None = None
    query = "select first_offset, count, at, body, crc from batches order by first_offset"
    for first, count, at_us, body, crc in connection.execute(query):
        due = first if due is None else due
        if not _is_whole(first, count, at_us, body, crc):
            doubtful_last = _claimed_last(first, count)
            continue
        if first > due:
            yield Damage(due, first - 1)
        due, doubtful_last = first + count, None
    if due is not None and doubtful_last is not None:
        yield Damage(due, max(due, doubtful_last))


def skip(connection: apsw.Connection, damage: Damage, at_us: int) -> None:
    """Replace damaged offsets by a gap, durably and permanently."""
    gap = JournalBatch(damage.first, damage.last - damage.first + 1, at_us, b"[]")
    with connection:
        connection.execute("delete from batches where first_offset between ? and ?", (damage.first, damage.last))
        write(connection, [gap])


def _claimed_last(first: int, count: object) -> int:
    """Return the last offset that a damaged row claims, if that is plausible."""
    return first + count - 1 if isinstance(count, int) and 0 < count <= COUNT_MAX else first


def _is_whole(first: int, count: object, at_us: object, body: object, crc: int) -> bool:
    if not (isinstance(count, int) and isinstance(at_us, int) and isinstance(body, bytes)):
        return False
    return crc == checksum(JournalBatch(first, count, at_us, body))


def checksum(batch: JournalBatch) -> int:
    """Return the checksum of a batch's offsets, time and body."""
    return crc32(batch.body, crc32(b"%d:%d:%d:" % (batch.first_offset, batch.count, batch.at_us)))
