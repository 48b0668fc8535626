"""The supervisor's side of the guard: registered processes end with the supervisor, even if that is killed."""

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
    """A guard process that ends registered processes and removes temporary folders when this process is gone.

    `descriptors` stay open in it: it holds a lock among them until the cleanup is complete.
    """

    def __init__(self, descriptors: tuple[int, ...] = ()) -> None:
        self._known: dict[str, int] = {}
        self._process = subprocess.Popen(  # noqa: S603 - Oncecast's own script
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
        """The pipe that a child gets as standard input to register itself, see `process.announced`."""
        if self._process.stdin is None or self._process.stdin.closed:
            raise StartError("this stack has ended")
        return self._process.stdin.fileno()

    def update(self, process: Process) -> None:
        """Report a change of `process`; the pid of an ended process may be reused by another."""
        known, pid = self._known.pop(process.name, None), process.pid
        if known is not None and known != pid:
            self.release(known)
        if pid is not None:
            self._known[process.name] = pid

    def release(self, pid: int) -> None:
        """Report that a process has ended."""
        self._write(b"-%d\n" % pid)

    def remove_at_end(self, folder: Path) -> None:
        """Have the guard remove `folder` at the end."""
        self._write(b"*%b\n" % bytes(folder))

    def close(self) -> None:
        """Have the guard clean up, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, lines: bytes) -> None:
        # The guard may have been killed. This process still cleans up itself, unless it is killed, too.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(lines)
