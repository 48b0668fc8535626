"""CPU time and memory of processes, as the kernel counts them (Linux)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MIB = 1024 * 1024
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children, because PostgreSQL works in children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return sum(_cpu_s(each) for each in (pid, *map(int, children)))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S  # the process, and its children that have ended


class Usage:
    """What named processes have used since this object was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before_s = {name: cpu_s(pid) for name, pid in self._pids.items()}
        for pid in self._pids.values():
            _forget_peak(pid)

    def cpu_us_per(self, events: int) -> dict[str, float]:
        """Return the CPU time of each process per event, in µs."""
        return {name: (cpu_s(pid) - self._before_s[name]) / events * 1e6 for name, pid in self._pids.items()}

    def peak_mib(self) -> dict[str, float]:
        """Return the most memory that each process had, in MiB; none for PostgreSQL, whose processes share theirs."""
        return {name: _peak_mib(pid) for name, pid in self._pids.items() if name != "postgres"}


def _forget_peak(pid: int) -> None:
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of its whole life


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")) / MIB
