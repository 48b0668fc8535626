"""The guard ends what its supervisor leaves behind, and holds a folder until it has."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from oncecast.embedded.guarded import Guard
from oncecast.embedded.lock import FolderLock
from oncecast.embedded.process import announced

SLEEP = "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_DFL); print(flush=True); time.sleep(60)"
"""The tests may run with SIGHUP ignored, as under `nohup`."""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def child(guard: Guard, code: str, number: int = signal.SIGTERM) -> subprocess.Popen[bytes]:
    """A child, announced to `guard`, that has got as far as its `print`."""
    command = announced([sys.executable, "-c", code], number)
    begun = subprocess.Popen(command, stdin=guard.pipe, stdout=subprocess.PIPE)
    assert begun.stdout is not None
    begun.stdout.readline()
    begun.stdout.close()
    return begun


def test_it_ends_each_by_its_own_signal_and_the_stubborn_by_force() -> None:
    guard = Guard()
    gentle, stubborn = child(guard, SLEEP, signal.SIGHUP), child(guard, STUBBORN)
    guard.close()
    assert stubborn.wait(10) == -signal.SIGKILL
    assert gentle.wait(10) == -signal.SIGHUP


def test_it_leaves_alone_what_had_ended() -> None:
    guard = Guard()
    other = child(guard, SLEEP)
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


def test_a_killed_guard_does_not_prevent_the_stop() -> None:
    guard = Guard()
    guard._process.kill()
    guard._process.wait()
    later = child(guard, SLEEP)
    guard.release(later.pid)
    guard.close()
    later.kill()
    later.wait()


def test_a_child_has_neither_the_guards_pipe_nor_its_own_signals_changed() -> None:
    guard = Guard()
    command = announced(["/bin/sh", "-c", 'read line; echo "ended: $?"; kill -PIPE $$'], signal.SIGTERM)
    asked = subprocess.run(command, stdin=guard.pipe, capture_output=True, text=True)
    assert (asked.stdout, asked.returncode) == ("ended: 1\n", -signal.SIGPIPE)
    guard.close()


def test_a_lock_that_it_was_given_is_held_until_it_has_ended(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "lock") as lock:
        assert lock.take()
        guard = Guard(descriptors=(lock.descriptor,))
    with FolderLock(tmp_path / "lock") as later:
        assert not later.take()
        guard.close()
        assert later.take()
