"""The place of a journal's files: locks them for one process, and checks that they are still the open ones.

SQLite finds `-wal` and `-shm` by the name of the file. A second name of the same file would have its own
write-ahead log, so a journal must have exactly one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from pathlib import Path

from oncecast.core.errors import JournalMisplaced, StartError

LOCKED_BYTE = 2**62
"""An offset far beyond everything that SQLite reads, writes or locks."""
_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, LOCKED_BYTE, 1, 0)
"""A `struct flock`."""


class JournalPlace:
    """The file at `path`, locked for this process until `close`.

    The lock belongs to the file (device and inode), not to a name or a descriptor of SQLite. SQLite's own locks are
    per process, and end when any descriptor of the file is closed. Raises StartError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open_files: dict[str, tuple[int, int]] = {}
        self._descriptors: list[int] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(path)
            self._lock()
            check_only_name(path)
            self._remember()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                reason = f"{error.strerror or error}; JOURNAL_PATH names its file"
                raise StartError(f"cannot use the journal {path}: {reason}") from None
            raise

    def _open(self, path: Path | str) -> None:
        self._descriptors.append(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _lock(self) -> None:
        path = self._path
        try:
            if sys.platform == "linux":
                fcntl.fcntl(self._descriptors[0], fcntl.F_OFD_SETLK, _WRITE_LOCK)
            else:  # on macOS, flock and SQLite's locks exclude each other: lock a file next to it
                self._open(f"{os.path.realpath(path)}.lock")
                fcntl.flock(self._descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise StartError(
                f"the journal {path} is in use by another process: give each producer a journal of its own"
            ) from None

    def _remember(self) -> None:
        status = os.fstat(self._descriptors[0])
        self._open_files = {str(self._path): (status.st_dev, status.st_ino)}
        try:
            self.check()
        except JournalMisplaced as error:
            raise StartError(str(error)) from None

    def opened(self) -> None:
        """Record the files that SQLite has opened, for `check`."""
        self.check_file()
        real = os.path.realpath(self._path)
        for name in (f"{real}-wal", f"{real}-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._open_files[name] = _identity(name)

    def check_file(self) -> None:
        """Raise JournalMisplaced unless the path still leads to the locked file."""
        _check(self._path, str(self._path), self._open_files[str(self._path)])

    def check(self) -> None:
        """Raise JournalMisplaced unless every open file of the journal is still at its place."""
        for name, identity in self._open_files.items():
            _check(self._path, name, identity)

    def close(self) -> None:
        """Release the lock. Call it only after SQLite has closed the file, because this also ends SQLite's locks."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def check_only_name(path: Path) -> None:
    """Raise StartError if the file at `path` has another name; OSError if it does not exist."""
    if (names := path.stat().st_nlink) > 1:
        raise StartError(
            f"the journal {path} has {names} names (hard links), and SQLite finds its write-ahead log by the name:"
            " remove all names but one"
        )
    if is_mount_point(path):
        raise StartError(
            f"the journal {path} is mounted as a single file, so its write-ahead log would stay outside:"
            " mount the folder that holds it"
        )


def _check(path: Path, name: str, identity: tuple[int, int]) -> None:
    try:
        if _identity(name) == identity:
            return
        what = "has been replaced by another file"
    except (FileNotFoundError, NotADirectoryError):
        what = "has been deleted or moved"
    raise JournalMisplaced(
        f"{name} {what}, so the journal {path} accepts nothing: put that very file back, or restart the producer"
    )


def _identity(name: str) -> tuple[int, int]:
    status = os.stat(name)
    return status.st_dev, status.st_ino


def is_mount_point(path: Path) -> bool:
    """Return whether the file `path` itself is mounted, as containers do with a single file (Linux)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    real = os.path.realpath(path)
    escaped = real.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(escaped == mount.split(" ")[4] for mount in mounts)
