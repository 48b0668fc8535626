"""The dead-letter log as a file: one JSON object per line, for grep. The rows in PostgreSQL are authoritative."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from oncecast.core.errors import Unavailable


class DeadLetterFile:
    """Appends lines to `path`, which only its owner may read, and syncs them.

    After a crash, an incomplete last line is ended first, so that it does not damage the next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    async def append(self, lines: Sequence[bytes]) -> None:
        """Append `lines` (without line ends). Raises Unavailable; any part of the lines may be written then."""
        try:
            await asyncio.to_thread(self._append, b"".join(line + b"\n" for line in lines))
        except OSError as error:
            reason = f"{error.strerror or error}; DEAD_LETTER_PATH names the file"
            raise Unavailable(f"cannot write {self.path}: {reason}") from error

    def _append(self, text: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
                text = b"\n" + text
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
