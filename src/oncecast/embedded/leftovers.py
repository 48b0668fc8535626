"""PostgreSQL processes that outlived a postmaster that was killed.

A backend notices that its postmaster is gone only when it next waits, and no new postmaster starts on a cluster while
one is left. They are found by the cluster's name in the list of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from oncecast.core.errors import StartError

LIST_DEADLINE_S = 5.0
GRACE_S = 3.0
DEADLINE_S = 10.0
LOOK_INTERVAL_S = 0.02


async def end_leftovers(mark: str) -> None:
    """End the processes of the cluster named `mark`, and wait until they are gone; raises StartError."""
    began_s = time.monotonic()
    while pids := await asyncio.to_thread(_pids, mark):
        waited_s = time.monotonic() - began_s
        if waited_s > DEADLINE_S:
            raise StartError(f"processes of an earlier PostgreSQL do not end: {', '.join(map(str, pids))}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGQUIT if waited_s < GRACE_S else signal.SIGKILL)
        await asyncio.sleep(LOOK_INTERVAL_S)


def _pids(mark: str) -> list[int]:
    return [pid for pid, command in _commands() if f"cluster_name={mark}" in command or f" {mark}: " in command]


def _commands() -> Iterator[tuple[int, str]]:
    """Yield the pid and command line of every process; that of a zombie is empty."""
    if Path("/proc/self/cmdline").exists():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                yield int(file.parent.name), file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return
    listing = ["ps", "-axww", "-o", "pid=,command="]
    try:
        lines = subprocess.run(listing, capture_output=True, text=True, timeout=LIST_DEADLINE_S).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return  # then PostgreSQL itself reports the conflict
    for line in lines.splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), command
