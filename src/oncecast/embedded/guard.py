"""Ends a stack's processes when their supervisor is gone, however it went.

Run as a script of its own, without Oncecast. Its standard input is a pipe whose other end only the supervisor
holds, with a line for each process, `+PID SIGNAL` when it begins and `-PID` when it has ended, and `*FOLDER` for
each temporary folder. At the end of the input whatever still runs is ended, and the folders are removed.
"""

import os
import shutil
import signal
import sys
import time

GRACE_S = 5.0


def main() -> None:
    """Listen until the supervisor is gone, then clear up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    running: dict[int, int] = {}
    temporary: list[str] = []
    for line in sys.stdin:
        pid, _, number = line[1:].partition(" ")
        if line[0] == "*":
            temporary.append(line[1:].rstrip("\n"))
        elif line[0] == "+":
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
    while any(send(pid, 0) for pid in running) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for pid in running:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """Whether the process was there to be sent it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
