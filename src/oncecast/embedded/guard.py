"""Ends a stack's processes when their supervisor is gone, however it went.

Run as a script of its own, without Oncecast. Its standard input is a pipe whose other end only the supervisor
holds, with a line for each process, `+PID SIGNAL` when it begins and `-PID` when it has ended, and `*FOLDER` for
each temporary folder. At the end of the input whatever still runs is ended, and the folders are removed.
"""

import shutil
import signal
import sys
import time
from os import kill

GRACE_S = 3.0


def main() -> None:
    """Listen until the supervisor is gone, then clear up."""
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
    """Each by the signal that it likes best, then by the one that it cannot refuse."""
    for pid, number in running.items():
        send(pid, signal.SIGCONT)
        send(pid, number)
    deadline_s = time.monotonic() + GRACE_S
    while any(runs(pid) for pid in running) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    for pid in running:
        send(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether it has not ended; their new parent may take its time to notice that they have."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as state:
            return state.read().rpartition(b") ")[2][:1] != b"Z"
    except OSError:  # gone, or there is no /proc
        return send(pid, 0)


def send(pid: int, number: int) -> bool:
    """Whether the process was there, and still ours, to be sent it."""
    try:
        kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
