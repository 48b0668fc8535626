"""The guard ends what its supervisor leaves behind, and holds a folder until it has."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from oncecast.embedded.guarded import Guard
from oncecast.embedded.lock import FolderLock

SLEEP = "import sys, time; print(flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def child(code: str) -> subprocess.Popen[bytes]:
    """A child that has got as far as its `print`."""
    begun = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert begun.stdout is not None
    begun.stdout.readline()
    begun.stdout.close()
    return begun


def test_it_ends_each_by_its_own_signal_and_the_stubborn_by_force() -> None:
    guard = Guard()
    gentle, stubborn = child(SLEEP), child(STUBBORN)
    guard.hold(gentle.pid, signal.SIGINT)
    guard.hold(stubborn.pid, signal.SIGTERM)
    guard.close()
    assert stubborn.wait(10) == -signal.SIGKILL
    assert gentle.wait(10) == -signal.SIGINT or gentle.returncode == 1  # KeyboardInterrupt


def test_it_leaves_alone_what_had_ended() -> None:
    guard = Guard()
    other = child(SLEEP)
    guard.hold(other.pid, signal.SIGTERM)
    guard.release(other.pid)
    guard.close()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_it_removes_temporary_folders_whatever_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "ü and spaces"
    (folder / "inside").mkdir(parents=True)
    guard = Guard()
    guard.remove_at_end(folder)
    guard.close()
    assert not folder.exists()


def test_that_it_was_killed_hinders_nobody() -> None:
    guard = Guard()
    guard._process.kill()
    guard._process.wait()
    guard.hold(1, signal.SIGTERM)
    guard.close()


def test_a_lock_that_it_was_given_is_held_until_it_has_ended(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "lock") as lock:
        assert lock.take()
        guard = Guard(descriptors=(lock.descriptor,))
    with FolderLock(tmp_path / "lock") as later:
        assert not later.take()
        guard.close()
        assert later.take()
