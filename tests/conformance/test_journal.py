"""What every journal must do: what it said it took is there, densely numbered, whatever comes after."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import JournalCorrupt, StartError
from oncecast.core.journal import JournalBatch, KnownGroup
from oncecast.core.telemetry import TelemetryEvent
from oncecast.journal import JournalLimits, SqliteJournal, file
from oncecast.testing.memory.journal import Kept, MemoryJournal


def ignore(_telemetry: TelemetryEvent) -> None:
    pass


AnyJournal = SqliteJournal | MemoryJournal
OpenJournal = Callable[[], Awaitable[AnyJournal]]


@pytest.fixture(params=["sqlite", "memory"])
async def open_journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenJournal]:
    opened: list[AnyJournal] = []
    kept = Kept.new(SYSTEM_CLOCK)

    async def make() -> AnyJournal:
        for journal in opened:
            await journal.close()
        if request.param == "memory":
            opened[:] = [MemoryJournal(SYSTEM_CLOCK, kept, frame_max_bytes=1_000)]
        else:
            limits = JournalLimits(frame_max_bytes=1_000)
            opened[:] = [
                await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, limits=limits, record=ignore)
            ]
        return opened[0]

    yield make
    for journal in opened:
        await journal.close()


async def open_file(tmp_path: Path) -> SqliteJournal:
    return await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, record=ignore)


def events(count: int, size_bytes: int = 20) -> list[bytes]:
    return [b'{"n":%d,"s":"%b"}' % (n, b"x" * size_bytes) for n in range(count)]


async def contents(journal: AnyJournal, after: int = 0, max_bytes: int = 10**9) -> list[bytes]:
    return [batch.body for batch in await journal.read(after, max_bytes)]


async def test_offsets_are_dense_from_one_and_go_on_after_a_restart(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    assert (journal.first, journal.last) == (1, 0)
    assert await journal.append(events(3)) == 1
    assert await journal.append(events(1)) == 4
    name = journal.name
    journal = await open_journal()
    assert (journal.name, journal.first, journal.last) == (name, 1, 4)
    assert await journal.append(events(1)) == 5


async def test_the_key_of_a_journal_is_secret_and_stays_with_it(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    key = journal.key
    assert len(key) == 32
    journal = await open_journal()
    assert (journal.key, key in journal.name) == (key, False)


async def test_every_start_of_a_journal_draws_a_new_epoch_with_its_first_offset(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    await journal.append(events(3))
    journal = await open_journal()
    journal = await open_journal()
    assert [epoch.first for epoch in journal.epochs] == [1, 4, 4]
    assert len({epoch.epoch for epoch in journal.epochs}) == 3


async def test_what_is_read_is_byte_for_byte_what_was_appended(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    given = [b'{"x" : 1.50}', '{"ü":"\U0001f30d"}'.encode()]
    await journal.append(given)
    (batch,) = await journal.read(0, 10**9)
    assert batch.body == b"[" + b",".join(given) + b"]"
    assert (batch.first_offset, batch.count, batch.last_offset) == (1, 2, 2)


async def test_a_large_append_is_divided_into_rows_and_one_larger_event_stands_alone(
    open_journal: OpenJournal,
) -> None:
    journal = await open_journal()
    assert await journal.append([*events(100), b'{"s":"%b"}' % (b"x" * 5_000), *events(2)]) == 1
    batches = await journal.read(0, 10**9)
    assert [b.first_offset for b in batches[1:]] == [b.last_offset + 1 for b in batches[:-1]]
    assert all(len(b.body) <= 1_000 or b.count == 1 for b in batches)
    assert sum(b.count for b in batches) == 103


async def test_reading_begins_with_the_batch_that_holds_the_next_offset(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    await journal.append(events(3))
    await journal.append(events(3))
    assert [b.first_offset for b in await journal.read(1, 10**9)] == [1, 4]
    assert [b.first_offset for b in await journal.read(3, 10**9)] == [4]
    assert await journal.read(6, 10**9) == []


async def test_reading_goes_no_further_than_needed_for_so_many_events(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    for _ in range(5):
        await journal.append(events(3))
    assert [b.first_offset for b in await journal.read(0, 10**9, 1)] == [1]
    assert [b.first_offset for b in await journal.read(0, 10**9, 3)] == [1]
    assert [b.first_offset for b in await journal.read(0, 10**9, 4)] == [1, 4]
    assert [b.first_offset for b in await journal.read(2, 10**9, 1)] == [1]
    assert [b.first_offset for b in await journal.read(2, 10**9, 2)] == [1, 4]


async def test_reading_is_bounded_but_never_stuck(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    await journal.append(events(200))
    assert len(await journal.read(0, 1)) == 1


async def test_appends_that_wait_together_share_a_commit(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    commits: list[int] = []
    journal.on_commit(lambda batches: commits.append(sum(b.count for b in batches)))
    offsets = await asyncio.gather(*(journal.append(events(1)) for _ in range(50)))
    assert sorted(offsets) == list(range(1, 51))
    assert sum(commits) == 50
    assert len(commits) < 50


async def test_commits_are_reported_in_order_before_their_appends_return(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    reported: list[JournalBatch] = []
    journal.on_commit(reported.extend)
    for n in range(1, 6):
        await journal.append(events(1))
        assert reported[-1].last_offset == n


async def test_rows_never_have_more_bytes_than_a_frame_may(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    for size_bytes in range(480, 500):
        await journal.append([b'"%b"' % (b"x" * size_bytes)] * 2)
    assert all(len(batch.body) <= 1_000 for batch in await journal.read(0, 10**9))


async def test_a_commit_is_all_or_nothing_for_each_append_and_offsets_follow_the_order_of_appends(
    open_journal: OpenJournal,
) -> None:
    journal = await open_journal()
    sizes = [1, 70, 3, 200, 1]
    firsts = await asyncio.gather(*(journal.append(events(size)) for size in sizes))
    assert firsts == [1 + sum(sizes[:n]) for n in range(len(sizes))]


# --- of the file ----------------------------------------------------------------------------------------------


async def test_two_processes_never_share_a_journal(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    with pytest.raises(StartError, match="in use"):
        await open_file(tmp_path)
    await journal.close()


async def test_a_row_that_is_missing_is_an_error_wherever_reading_begins(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    for _ in range(3):
        await journal.append(events(2))
    await journal.close()
    database = sqlite3.connect(tmp_path / "journal.db")
    with database:
        database.execute("delete from batches where first_offset = 3")
    database.close()
    journal = await open_file(tmp_path)
    for after in (1, 2, 3):
        with pytest.raises(JournalCorrupt, match="3 to 4"):
            await contents(journal, after=max(after, 2))
    assert len(await contents(journal, after=4)) == 1
    await journal.close()


async def test_a_flipped_byte_is_an_error_that_names_the_offsets(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    await journal.append(events(2))
    await journal.append(events(2))
    await journal.append(events(2))
    await journal.close()
    database = sqlite3.connect(tmp_path / "journal.db")
    with database:
        body = database.execute("select body from batches where first_offset = 3").fetchone()[0]
        flipped = body[:5] + bytes([body[5] ^ 1]) + body[6:]
        database.execute("update batches set body = ? where first_offset = 3", (flipped,))
    database.close()
    journal = await open_file(tmp_path)
    assert len(await contents(journal)) == 1  # what stands before it is served
    with pytest.raises(JournalCorrupt, match="3 to 4"):
        await journal.read(2, 10**9)
    assert len(await contents(journal, after=4)) == 1
    await journal.close()


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("journal.db*"))
    await journal.close()


async def test_a_foreign_database_is_refused_plainly(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "other.db")
    database.execute("create table t (x)")
    database.close()
    with pytest.raises(StartError, match="not a journal"):
        await SqliteJournal.open(tmp_path / "other.db", SYSTEM_CLOCK, record=ignore)


async def test_what_was_said_of_groups_is_known_after_a_restart(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    assert journal.groups == {}
    await journal.keep_groups([KnownGroup("shop", 3), KnownGroup("audit", 0, unseen_s=2.5)])
    await journal.keep_groups([KnownGroup("shop", 7, forgotten=True)])
    known = {"shop": KnownGroup("shop", 7, forgotten=True), "audit": KnownGroup("audit", 0, unseen_s=2.5)}
    assert journal.groups == known
    journal = await open_journal()
    assert journal.groups == known


async def test_what_is_retired_is_gone_and_offsets_go_on_after_a_restart(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    for _ in range(5):
        await journal.append(events(3))
    await journal.retire(10, before_us=2**62, keep_bytes=2**62)
    assert (journal.first, journal.last) == (10, 15), "the batch of 10 to 12 reaches beyond what may go"
    assert [batch.first_offset for batch in await journal.read(0, 10**9)] == [10, 13]
    journal = await open_journal()
    assert (journal.first, journal.last) == (10, 15)
    assert await journal.append(events(1)) == 16


async def test_the_newest_batch_is_never_retired_for_offsets_go_on_from_it(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    for _ in range(3):
        await journal.append(events(2))
    await journal.retire(10**9, before_us=2**62, keep_bytes=0)
    assert (journal.first, journal.last) == (5, 6)
    journal = await open_journal()
    assert (journal.first, journal.last) == (5, 6)


async def test_only_what_is_old_or_too_much_is_retired(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    for _ in range(20):
        await journal.append(events(1, size_bytes=900))
    await journal.retire(10**9, before_us=0, keep_bytes=2**62)
    assert journal.first == 1
    before_bytes = journal.used_bytes
    await journal.retire(10**9, before_us=0, keep_bytes=before_bytes - 3_000)
    assert 3 <= journal.first <= 6, "about 3,000 bytes had to go"


async def test_an_append_beside_retiring_is_neither_lost_nor_late(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    for _ in range(50):
        await asyncio.gather(*(journal.append(events(1)) for _ in range(50)))
    *_, offset = await asyncio.gather(
        journal.retire(2_000, before_us=2**62, keep_bytes=0), *(journal.append(events(1)) for _ in range(20))
    )
    assert journal.last == offset == 2_520
    assert 1_900 <= journal.first <= 2_001
    read = [batch async for batch in _all(journal, journal.first - 1)]
    assert sum(batch.count for batch in read) == 2_521 - journal.first
    await journal.close()


async def _all(journal: SqliteJournal, after: int) -> AsyncIterator[JournalBatch]:
    while batches := await journal.read(after, 10_000):
        for batch in batches:
            yield batch
            after = batch.last_offset


def damage(folder: Path, first_offset: int, **columns: object) -> None:
    """Change a row behind the journal's back."""
    database = sqlite3.connect(folder / "journal.db")
    with database:
        for name, value in columns.items():
            query = f"update batches set {name} = ? where first_offset = ?"
            database.execute(query, (value, first_offset))
    database.close()


def damages_of(folder: Path) -> list[tuple[int, int]]:
    connection = file.open_file(folder / "journal.db", read_only=True)
    try:
        return [(found.first, found.last) for found in file.damages(connection)]
    finally:
        connection.close()


def skip(folder: Path, first: int, last: int) -> None:
    connection = file.open_file(folder / "journal.db")
    file.skip(connection, file.Damage(first, last), at_us=1)
    connection.close()


@pytest.mark.parametrize(
    "columns",
    [{"body": b"[]"}, {"body": "text"}, {"count": 10**12}, {"count": 1}, {"crc": 0}, {"at": 0}, {"count": "x"}],
)
async def test_damage_is_known_by_what_stands_around_it_whatever_the_row_says_of_itself(
    tmp_path: Path, columns: dict[str, object]
) -> None:
    journal = await open_file(tmp_path)
    for _ in range(4):
        await journal.append(events(2))
    await journal.close()
    assert damages_of(tmp_path) == []
    damage(tmp_path, 3, **columns)
    assert damages_of(tmp_path) == [(3, 4)]


async def test_what_was_skipped_is_a_gap_and_everything_else_is_read_as_it_was(tmp_path: Path) -> None:
    journal = await open_file(tmp_path)
    for _ in range(4):
        await journal.append(events(2))
    await journal.close()
    damage(tmp_path, 3, crc=0)
    damage(tmp_path, 5, crc=0)
    assert damages_of(tmp_path) == [(3, 6)]
    skip(tmp_path, 3, 6)
    assert damages_of(tmp_path) == []
    journal = await open_file(tmp_path)
    batches = await journal.read(0, 10**9)
    assert [(b.first_offset, b.count, b.is_gap) for b in batches] == [(1, 2, False), (3, 4, True), (7, 2, False)]
    assert [b.first_offset for b in await journal.read(4, 10**9)] == [3, 7]
    await journal.close()


async def test_a_journal_whose_newest_row_is_damaged_opens_once_that_is_skipped_and_offsets_go_on(
    tmp_path: Path,
) -> None:
    journal = await open_file(tmp_path)
    await journal.append(events(2))
    await journal.append(events(3))
    await journal.close()
    damage(tmp_path, 3, crc=0)
    with pytest.raises(JournalCorrupt, match="3 to 5"):
        await open_file(tmp_path)
    skip(tmp_path, 3, 5)
    journal = await open_file(tmp_path)
    assert (journal.last, await journal.append(events(1))) == (5, 6)
    await journal.close()
