"""The file of dead letters: a JSON object a line, for people with grep. The rows are the truth; lines follow them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from oncecast.core.errors import Unavailable


class DeadLetterFile:
    """Appends lines to `path`, which only its owner may read, and syncs them.

    A line that was torn by a crash is ended first, so that it hurts no other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    async def append(self, lines: Sequence[bytes]) -> None:
        """Append `lines` (without their ends); raises Unavailable, and then any part of them may be written."""
        try:
            await asyncio.to_thread(self._append, b"".join(line + b"\n" for line in lines))
        except OSError as error:
            reason = f"{error.strerror or error}; DEAD_LETTER_PATH names the file"
            raise Unavailable(f"{self.path} cannot be written: {reason}") from error

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
