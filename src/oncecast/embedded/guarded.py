"""The supervisor's end of the guard: whoever it is told of does not outlive us, even if we are killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from oncecast.core.errors import StartError
from oncecast.embedded import guard
from oncecast.embedded.process import Process

CLOSE_DEADLINE_S = 30.0


class Guard:
    """A guard process that ends what runs, and removes temporary folders, when this process is gone.

    `descriptors` stay open in it: a lock among them is held until everything has been cleared up.
    """

    def __init__(self, descriptors: tuple[int, ...] = ()) -> None:
        self._told: dict[str, int] = {}
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-S", "-E", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=descriptors,
            bufsize=0,
            cwd="/",
        )

    @property
    def pipe(self) -> int:
        """Where a child announces itself: its standard input, see `process.announced`."""
        if self._process.stdin is None or self._process.stdin.closed:
            raise StartError("this stack has ended")
        return self._process.stdin.fileno()

    def tell(self, process: Process) -> None:
        """That `process` has changed: who has ended must not be confused with who gets its number next."""
        told, pid = self._told.pop(process.name, None), process.pid
        if told is not None and told != pid:
            self.release(told)
        if pid is not None:
            self._told[process.name] = pid

    def release(self, pid: int) -> None:
        """That a process has ended."""
        self._write(b"-%d\n" % pid)

    def remove_at_end(self, folder: Path) -> None:
        """That `folder` is temporary."""
        self._write(b"*%b\n" % bytes(folder))

    def close(self) -> None:
        """Let it clear up what is left, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, lines: bytes) -> None:
        # If somebody killed the guard, we still end in order ourselves: only our being killed has lost its guard.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(lines)
