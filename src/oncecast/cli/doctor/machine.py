"""Checks of the machine: the folder of the journal, its disk, and open files."""

from __future__ import annotations

import os
import resource
import shutil
import sys

from oncecast.cli.doctor.diagnosis import Diagnoses, Diagnosis, judged
from oncecast.config import ListenerConfig, ProducerConfig

FREE_MIN_BYTES = 1024 * 1024 * 1024
RESERVED_FILES = 64
"""For what is no client: files, libraries, connections to PostgreSQL and Redis."""


def check_machine(producer: ProducerConfig | None, listener: ListenerConfig | None) -> Diagnoses:
    """Yield the findings about this machine."""
    yield Diagnosis("Python", "ok", sys.version.split()[0])
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = RESERVED_FILES + max((each.connections_max for each in (producer, listener) if each), default=0)
    yield judged(
        "open files",
        files_max >= needed,
        f"at most {files_max:,}; {needed:,} are needed for CONNECTIONS_MAX",
        f"raise the limit (ulimit -n {needed}, or LimitNOFILE={needed} of systemd), or lower CONNECTIONS_MAX",
        otherwise="warning",
    )
    if producer is not None:
        yield from _check_journal(producer)


def _check_journal(producer: ProducerConfig) -> Diagnoses:
    folder = producer.journal_path.absolute().parent
    what = "journal"
    if not folder.is_dir():
        yield Diagnosis(what, "error", f"the folder {folder} does not exist", "create it, or set JOURNAL_PATH")
        return
    yield judged(
        what,
        os.access(folder, os.W_OK | os.X_OK),
        f"folder {folder}",
        "give the user of the producer the right to write there, or set JOURNAL_PATH",
    )
    free_bytes = shutil.disk_usage(folder).free
    has_bytes = producer.journal_path.stat().st_size if producer.journal_path.is_file() else 0
    wanted_bytes = max(FREE_MIN_BYTES, producer.journal_max_bytes - has_bytes)
    yield judged(
        "disk",
        free_bytes >= wanted_bytes,
        f"{free_bytes / 2**30:.1f} GiB free; the journal may take {wanted_bytes / 2**30:.1f} GiB more",
        "free some space, or lower JOURNAL_MAX_BYTES; a full disk stops publishing",
        otherwise="warning" if free_bytes >= FREE_MIN_BYTES else "error",
    )
