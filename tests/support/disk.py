"""A disk under SQLite that can fail, fill up and lose its power: an apsw VFS over the real one."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import apsw

_REAL = apsw.vfs_names()[0]


class Disk(apsw.VFS):
    """SQLite's default VFS while it is entered.

    While `answers` is not set, a sync hangs. It records what was synced,
    which is what a power cut would leave. After a sync that failed, the system takes
    the pages that it could not write for clean, as Linux does: a later sync does not write them either.
    """

    def __init__(self) -> None:
        self.sync_fails = False
        self.full = False
        self.answers = threading.Event()
        self.answers.set()
        self.syncs = 0
        self.left: dict[Path, bytearray] = defaultdict(bytearray)
        super().__init__("failing-disk", base=_REAL, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        return _File(self, name.filename() if isinstance(name, apsw.URIFilename) else name, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(filename, syncdir)
        self.left.pop(Path(filename), None)

    def cut_power(self, folder: Path, left: Path) -> None:
        """Write what a power cut at this moment would leave of the files in `folder` into the new folder `left`."""
        left.mkdir()
        for path, content in self.left.items():
            if path.parent == folder:
                (left / path.name).write_bytes(content)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: Any, flags: list[int]) -> None:
        super().__init__(_REAL, name, flags)
        self._disk = disk
        self._path = Path(path)
        self._unsynced: list[tuple[int, bytes | None]] = []

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        if self._disk.full:
            raise apsw.FullError("the disk is full")
        super().xWrite(data, offset)
        self._unsynced.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(newsize)
        self._unsynced.append((newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.answers.wait()
        unsynced, self._unsynced = self._unsynced, []
        if self._disk.sync_fails:
            raise apsw.IOError("the sync failed")
        super().xSync(flags)
        self._disk.syncs += 1
        content = self._disk.left[self._path]
        for offset, data in unsynced:
            if data is None:
                del content[offset:]
            else:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
