"""The supervisor's end of the guard: whoever it is told of does not outlive us, even if we are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oncecast.embedded import guard
from oncecast.embedded.process import Process


class Guard:
    """A guard process that ends what runs, and removes temporary folders, when this process is gone."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-S", "-E", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )

    def tell(self, process: Process) -> None:
        """That `process` has begun or ended."""
        told, pid = self._told.pop(process.name, None), process.pid
        lines = b""
        if told is not None and told != pid:
            lines += b"-%d\n" % told
        if pid is not None:
            self._told[process.name] = pid
            if told != pid:
                lines += b"+%d %d\n" % (pid, process.abort_signal)
        if lines:
            self._write(lines)

    def remove_at_end(self, folder: Path) -> None:
        """That `folder` is temporary."""
        self._write(b"*%b\n" % bytes(folder))

    def close(self) -> None:
        """Let it clear up what is left, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def _write(self, lines: bytes) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(lines)
