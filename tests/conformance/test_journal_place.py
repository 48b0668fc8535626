"""A journal has one opener by whatever name it is opened, and nothing is accepted into a file without its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import JournalUnavailable, StartError
from oncecast.core.telemetry import JournalFailed, TelemetryEvent
from oncecast.journal import JournalLimits, SqliteJournal, file
from oncecast.journal.place import is_mount_point
from tests.support.stacks import until

REFUSED = "accepts nothing: put that very file back, or restart the producer"


@pytest.fixture
def telemetry_events() -> list[TelemetryEvent]:
    return []


@pytest.fixture
def limits() -> JournalLimits:
    """Those of `journal`; a test may have others."""
    return JournalLimits()


@pytest.fixture
async def journal(
    tmp_path: Path, telemetry_events: list[TelemetryEvent], limits: JournalLimits
) -> AsyncIterator[SqliteJournal]:
    """In `data`, which a test may remove."""
    path = tmp_path / "data" / "journal.db"
    journal = await SqliteJournal.open(path, SYSTEM_CLOCK, limits=limits, record=telemetry_events.append)
    yield journal
    await journal.close()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder."""
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


def symbolic_link(journal: Path, other: Path) -> Path:
    (other / "link.db").symlink_to(journal)
    return other / "link.db"


def hard_link(journal: Path, other: Path) -> Path:
    (other / "link.db").hardlink_to(journal)
    return other / "link.db"


def linked_folder(journal: Path, other: Path) -> Path:
    (other / "link").symlink_to(journal.parent)
    return other / "link" / "journal.db"


def relative_path(journal: Path, other: Path) -> Path:
    return Path(os.path.relpath(journal))


@pytest.mark.parametrize("named", [symbolic_link, hard_link, linked_folder, relative_path])
async def test_a_journal_that_is_open_is_refused_to_others_by_whatever_name(
    journal: SqliteJournal, tmp_path: Path, other: Path, named: Callable[[Path, Path], Path]
) -> None:
    path = named(tmp_path / "data" / "journal.db", other)
    with pytest.raises(StartError) as refused:
        await SqliteJournal.open(path, SYSTEM_CLOCK, record=lambda _telemetry: None)
    message = f"the journal {path} is in use by another process: give each producer a journal of its own"
    assert str(refused.value) == message


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "journal.db").touch()
    descriptor = os.open(tmp_path / "journal.db", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc/self/fd")
async def test_a_descriptor_as_a_path_leads_to_the_file_itself_with_its_log_next_to_it(
    tmp_path: Path, descriptor: int
) -> None:
    journal = await SqliteJournal.open(
        Path(f"/proc/self/fd/{descriptor}"), SYSTEM_CLOCK, record=lambda _telemetry: None
    )
    await journal.append([b"1"])
    assert (tmp_path / "journal.db-wal").exists()
    await journal.close()


async def test_a_journal_with_two_names_is_not_opened(tmp_path: Path) -> None:
    """After a crash, the write-ahead log of the one name would not be found by the other."""
    (tmp_path / "journal.db").touch()
    hard_link(tmp_path / "journal.db", tmp_path)
    with pytest.raises(StartError, match=r"has 2 names \(hard links\).*: remove all names but one"):
        await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)


def test_a_file_that_is_mounted_by_itself_is_known(tmp_path: Path) -> None:
    assert not is_mount_point(tmp_path)
    assert is_mount_point(Path("/proc")) == Path("/proc/self/mountinfo").exists()


def delete(data: Path) -> None:
    (data / "journal.db").unlink()


def rename(data: Path) -> None:
    (data / "journal.db").rename(data / "old.db")


def replace(data: Path) -> None:
    (data / "new.db").touch()
    (data / "new.db").rename(data / "journal.db")


def remove_folder(data: Path) -> None:
    shutil.rmtree(data)


def rename_folder(data: Path) -> None:
    data.rename(data.with_name("old"))


def delete_log(data: Path) -> None:
    (data / "journal.db-wal").unlink()


def delete_index(data: Path) -> None:
    (data / "journal.db-shm").unlink()


LOSSES = [delete, rename, replace, remove_folder, rename_folder, delete_log, delete_index]


@pytest.mark.parametrize("lose", LOSSES)
async def test_nothing_is_acknowledged_once_a_file_of_the_journal_is_not_at_its_place_and_reads_go_on(
    journal: SqliteJournal, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    await journal.append([b"1", b"2"])
    lose(tmp_path / "data")
    with pytest.raises(JournalUnavailable, match=REFUSED):
        await journal.append([b"3"])
    assert (await journal.read(0, 10**6))[0].body == b"[1,2]"


@pytest.mark.parametrize("limits", [JournalLimits(check_interval_s=0.01)])
@pytest.mark.parametrize("lose", LOSSES)
async def test_an_idle_journal_notices_by_itself_that_a_file_is_gone_and_says_so_once(
    journal: SqliteJournal,
    tmp_path: Path,
    telemetry_events: list[TelemetryEvent],
    lose: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check, checks = journal._place.check, count()
    monkeypatch.setattr(journal._place, "check", lambda: (next(checks), check()))
    assert journal.failing is None
    lose(tmp_path / "data")

    async def is_noticed() -> bool:
        return journal.failing is not None and REFUSED in str(journal.failing)

    await until(is_noticed)
    noticed_at = next(checks)

    async def is_looked_at_again() -> bool:
        return next(checks) > noticed_at + 100

    await until(is_looked_at_again)
    assert len([telemetry for telemetry in telemetry_events if isinstance(telemetry, JournalFailed)]) == 1


async def test_a_journal_that_is_put_back_accepts_again_with_a_new_epoch(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    await journal.append([b"1"])
    epochs = len(journal.epochs)
    rename_folder(tmp_path / "data")
    with pytest.raises(JournalUnavailable, match=REFUSED):
        await journal.append([b"2"])
    (tmp_path / "old").rename(tmp_path / "data")

    async def works() -> bool:
        return journal.failing is None

    await until(works)
    assert len(journal.epochs) == epochs + 1
    await journal.append([b"3"])
    read = b"".join(batch.body for batch in await journal.read(0, 10**6))
    assert (read[:3], read[-3:]) == (b"[1]", b"[3]")


async def test_what_was_accepted_is_saved_from_a_deleted_log_before_the_process_ends(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    """The copy is what a SIGKILL would leave."""
    for _ in range(20):
        await journal.append([b"1"])
    delete_log(tmp_path / "data")
    with pytest.raises(JournalUnavailable, match=REFUSED):
        await journal.append([b"2"])
    shutil.copy(tmp_path / "data" / "journal.db", tmp_path / "left.db")
    left = await SqliteJournal.open(tmp_path / "left.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
    assert left.last >= 20
    assert [batch.body for batch in await left.read(0, 10**6)][:20] == [b"[1]"] * 20
    await left.close()


async def test_another_reader_of_the_file_ends_none_of_its_locks(journal: SqliteJournal, tmp_path: Path) -> None:
    """SQLite's own locks are the process's, and end when any descriptor of the file is closed."""
    await journal.append([b"1"])
    reader = file.open_file(tmp_path / "data" / "journal.db", read_only=True)
    reader.close()
    with pytest.raises(StartError, match="in use"):
        await SqliteJournal.open(tmp_path / "data" / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
    assert (tmp_path / "data" / "journal.db-wal").exists()


async def test_the_error_about_an_unusable_path_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"^cannot use the journal .*; JOURNAL_PATH names its file$"):
        await SqliteJournal.open(tmp_path / "file" / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
