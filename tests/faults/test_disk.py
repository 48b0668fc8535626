"""The journal on a disk that fails, fills up or loses power: acknowledged events stay, refused ones are not there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import JournalFull, JournalUnavailable
from oncecast.core.telemetry import JournalFailed, JournalOpened, TelemetryEvent
from oncecast.journal import JournalLimits, SqliteJournal
from tests.support.disk import Disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk() as disk:
        yield disk


@pytest.fixture
def telemetry_events() -> list[TelemetryEvent]:
    return []


@pytest.fixture
def limits() -> JournalLimits:
    """The limits of `journal`; a test may replace them."""
    return JournalLimits(reopen_interval_s=0.0)


@pytest.fixture
async def journal(
    disk: Disk, telemetry_events: list[TelemetryEvent], tmp_path: Path, limits: JournalLimits
) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(
        tmp_path / "journal.db", SYSTEM_CLOCK, limits=limits, record=telemetry_events.append
    )
    yield journal
    disk.sync_fails = disk.full = False
    await journal.close()


def event(n: int) -> bytes:
    return b'{"n":%d}' % n


async def events(journal: SqliteJournal) -> list[bytes]:
    """Return the events by offset from 1, which must be dense."""
    batches = await journal.read(0, 10**9)
    assert [b.first_offset for b in batches] == list(itertools.accumulate([1, *(b.count for b in batches[:-1])]))
    return [e for batch in batches for e in batch.body[1:-1].split(b",")]


async def after_power_cut(disk: Disk, folder: Path, left: Path) -> list[bytes]:
    disk.cut_power(folder, left)
    restarted = await SqliteJournal.open(left / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
    try:
        return await events(restarted)
    finally:
        await restarted.close()


async def test_what_was_acknowledged_survives_a_power_cut(journal: SqliteJournal, disk: Disk, tmp_path: Path) -> None:
    acknowledged: dict[int, bytes] = {}

    async def publish(worker: int) -> None:
        for n in range(20):
            given = event(worker * 100 + n)
            acknowledged[await journal.append([given])] = given

    for round_ in range(3):
        async with asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(publish(round_ * 1_000 + worker))
        left = dict(enumerate(await after_power_cut(disk, tmp_path, tmp_path / f"left{round_}"), 1))
        assert acknowledged.items() <= left.items()


async def test_an_append_returns_only_after_a_sync(journal: SqliteJournal, disk: Disk) -> None:
    for n in range(5):
        before = disk.syncs
        await journal.append([event(n)])
        assert disk.syncs > before


async def test_a_failed_sync_refuses_the_commit_and_the_journal_is_reopened_before_the_next(
    journal: SqliteJournal, disk: Disk, telemetry_events: list[TelemetryEvent]
) -> None:
    await journal.append([event(1)])
    disk.sync_fails = True
    results = await asyncio.gather(*(journal.append([event(n)]) for n in (2, 3)), return_exceptions=True)
    assert [type(result) for result in results] == [JournalUnavailable] * 2
    with pytest.raises(JournalUnavailable):
        await journal.append([event(4)])
    assert any(isinstance(telemetry, JournalFailed) for telemetry in telemetry_events)
    disk.sync_fails = False
    offset = await journal.append([event(5)])
    kept = await events(journal)
    assert (kept[0], kept[offset - 1], len(kept)) == (event(1), event(5), offset)
    assert journal.epochs[-1].first == offset
    assert len([telemetry for telemetry in telemetry_events if isinstance(telemetry, JournalOpened)]) >= 2


async def test_a_failed_sync_takes_nothing_away_that_is_acknowledged_later(
    journal: SqliteJournal, disk: Disk, tmp_path: Path
) -> None:
    await journal.append([event(1)])
    disk.sync_fails = True
    with pytest.raises(JournalUnavailable):
        await journal.append([event(2)])
    disk.sync_fails = False
    later = {await journal.append([event(n)]): event(n) for n in range(3, 9)}
    left = dict(enumerate(await after_power_cut(disk, tmp_path, tmp_path / "left"), 1))
    assert {1: event(1), **later}.items() <= left.items()


async def test_a_full_disk_is_reported_reads_continue_and_the_journal_recovers(
    journal: SqliteJournal, disk: Disk
) -> None:
    await journal.append([event(1)])
    disk.full = True
    with pytest.raises(JournalFull):
        await journal.append([event(2)])
    assert await events(journal) == [event(1)]
    disk.full = False
    assert await journal.append([event(3)]) == 2
    assert await events(journal) == [event(1), event(3)]


async def test_after_closing_an_append_is_refused_rather_than_left_waiting(journal: SqliteJournal) -> None:
    waiting = asyncio.gather(*(journal.append([event(n)]) for n in range(5)))
    await asyncio.sleep(0)
    await journal.close()
    assert await waiting == [1, 2, 3, 4, 5]
    with pytest.raises(JournalUnavailable, match="closed"):
        await journal.append([event(6)])


@pytest.mark.parametrize("limits", [JournalLimits(pending_max_bytes=10)])
async def test_too_much_waiting_for_the_disk_is_refused(journal: SqliteJournal) -> None:
    results = await asyncio.gather(*(journal.append([event(n)]) for n in range(5)), return_exceptions=True)
    assert results[0] == 1
    assert any(isinstance(result, JournalUnavailable) and "overloaded" in str(result) for result in results)
    assert await journal.append([b"{}" * 100])  # alone, one of any size


@pytest.mark.parametrize("limits", [JournalLimits(append_deadline_s=1.0)])
async def test_a_disk_that_does_not_answer_ends_the_wait_not_the_journal(journal: SqliteJournal, disk: Disk) -> None:
    disk.answers.clear()
    with pytest.raises(JournalUnavailable, match="unknown"):
        await journal.append([event(1)])
    disk.answers.set()
    await journal.append([event(2)])
    assert await events(journal) == [event(1), event(2)]


async def test_retiring_on_a_disk_that_fails_loses_nothing_that_was_to_stay(
    journal: SqliteJournal, disk: Disk, tmp_path: Path
) -> None:
    for n in range(10):
        await journal.append([event(n)])
    disk.sync_fails = True
    with pytest.raises(JournalUnavailable):
        await journal.retire(5, before_us=2**62, keep_bytes=0)
    disk.sync_fails = False
    await journal.append([event(10)])
    batches = await journal.read(5, 10**9)
    assert [batch.first_offset for batch in batches] == [6, 7, 8, 9, 10, 11]


async def test_space_that_was_retired_is_used_again(journal: SqliteJournal, tmp_path: Path) -> None:
    async def fill() -> None:
        for n in range(100):
            await journal.append([b'"%b"' % (b"x" * 20_000), event(n)])
        await journal.retire(journal.last, before_us=0, keep_bytes=1_000_000)

    for _ in range(10):
        await fill()
        assert journal.used_bytes < 1_100_000
    assert (tmp_path / "journal.db").stat().st_size < 4_000_000, "20,000,000 bytes were written"
