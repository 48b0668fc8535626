"""A lock file, held as long as any process has its descriptor open."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class FolderLock:
    """A lock on `file`, which is open while the lock is entered. Raises OSError if the file cannot be opened."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.descriptor = -1

    def __enter__(self) -> Self:
        self.descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def take(self) -> bool:
        """Try to acquire the lock without waiting; return whether it is held."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
