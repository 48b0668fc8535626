"""End a stack's processes when their supervisor is gone, even if it was killed.

This is a script that does not import Oncecast. Its standard input is a pipe whose other end only the supervisor
holds, with lines `+PID SIGNAL` for a process that starts, `-PID` for one that has ended, and `*FOLDER` for each
temporary folder. At the end of the input it ends the remaining processes and removes the folders.
"""

import shutil
import signal
import sys
import time
from os import kill

GRACE_S = 3.0


def main() -> None:
    """Read the pipe until the supervisor is gone, then clean up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    running: dict[int, int] = {}
    temporary: list[bytes] = []
    for line in sys.stdin.buffer:
        pid, _, number = line[1:].partition(b" ")
        if line[:1] == b"*":
            temporary.append(line[1:].rstrip(b"\n"))
        elif line[:1] == b"+":
            running[int(pid)] = int(number)
        else:
            running.pop(int(pid), None)
    end(running)
    for folder in temporary:
        shutil.rmtree(folder, ignore_errors=True)


def end(running: dict[int, int]) -> None:
    """Send each process its own signal, then SIGKILL if it still runs."""
    for pid, number in running.items():
        send(pid, signal.SIGCONT)
        send(pid, number)
    deadline_s = time.monotonic() + GRACE_S
    while any(runs(pid) for pid in running) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    for pid in running:
        send(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Return whether the process still runs; a zombie that its new parent has not reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as state:
            return state.read().rpartition(b") ")[2][:1] != b"Z"
    except OSError:  # the process is gone, or there is no /proc
        return send(pid, 0)


def send(pid: int, number: int) -> bool:
    """Send a signal; return whether the process exists and may be signalled."""
    try:
        kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
