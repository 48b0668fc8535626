"""Keep a forked child of this process from using its parent's connections and event loop.

A child inherits its parent's sockets, its event loop and everything that was about to run on it. In a child of a
guarded process, each such socket is replaced at once by one that nobody reads. The child exits when its handler
returns. See decision 027.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import thread as executors
from typing import Any, Protocol

STANDARD_STREAMS = 3
"""The descriptors below this number stay as they are."""


class _HasDescriptor(Protocol):
    def fileno(self) -> int:
        """Return the file descriptor."""


_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_owners: weakref.WeakSet[_HasDescriptor] = weakref.WeakSet()
_kept: list[object] = []
"""Objects that must not be finalized in a child."""
_is_child = False
_forking = threading.local()
"""While a thread forks, `signals` are those that it had blocked before. Several threads may fork at the same time."""


def guard(loop: asyncio.AbstractEventLoop) -> None:
    """Keep children forked while `loop` runs from using it, or the connections that it watches."""
    _loops.add(loop)


def silence_in_children(owner: _HasDescriptor) -> None:
    """Keep children from using this connection, whether or not a loop watches it at the time of the fork."""
    _owners.add(owner)


def is_child() -> bool:
    """Return whether this process was forked from a guarded one."""
    return _is_child


def end_child(error: BaseException | None = None) -> None:
    """Exit with the status of `error` if this is a forked child; do nothing in any other process."""
    if not _is_child:
        return
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        _report(f"{type(error).__name__}: {error} ({_place_of(error)})")
        status = 1
    _exit(status & 0xFF)


def _place_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"


def _report(why: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
        print(f"forked process {os.getpid()} ends: {why}", file=sys.stderr)  # noqa: T201


def _exit(status: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


# --- at a fork ----------------------------------------------------------------------------------------------


def _is_guarded() -> bool:
    return any(loop.is_running() for loop in _loops)


def _before() -> None:
    """Flush the standard streams, or parent and child would both write the buffers; and block signals.

    A signal that the child got before its handlers are reset would reach the event loop of its parent.
    """
    if not _is_guarded():
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    _forking.signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _restore_signals() -> None:
    mask = vars(_forking).pop("signals", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global _is_child
    if not _is_guarded():
        return
    _is_child = True
    _reset_signals()
    _silence()
    for loop in _loops:
        if loop.is_running():
            _end_with_next_turn(loop)
    _end_after_work_item()
    _restore_signals()


def _reset_signals() -> None:
    """Reset signal handling: a signal to the child must not reach the event loop of its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGCHLD) is None:  # uvloop's own, which writes to its parent's loop
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _silence() -> None:
    """Replace the parent's sockets by one whose other end nobody uses, and each epoll of a loop by a new one.

    Through a shared epoll the child could remove descriptors that its parent waits for.
    """
    silent, other_end = socket.socketpair()
    _kept.extend((silent, other_end))
    descriptors = {descriptor for owner in list(_owners) if (descriptor := _descriptor_of(owner)) >= 0}
    if sys.platform == "linux":
        for epoll, watched in _epolls():
            descriptors |= watched
            with select.epoll() as fresh:
                os.dup2(fresh.fileno(), epoll, inheritable=False)
    else:
        descriptors |= _network_sockets()
    for descriptor in descriptors:
        if descriptor >= STANDARD_STREAMS:
            os.dup2(silent.fileno(), descriptor, inheritable=False)


def _descriptor_of(owner: _HasDescriptor) -> int:
    try:
        return owner.fileno()
    except Exception:  # libraries raise different errors for a closed connection
        return -1


def _epolls() -> Iterator[tuple[int, set[int]]]:
    """Yield every epoll of the process, with the descriptors that it watches."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as info:
                yield int(name), {int(line.split()[1]) for line in info if line.startswith("tfd:")}
        except FileNotFoundError:  # the descriptor of the listing itself
            continue


def _network_sockets() -> set[int]:
    """Return all TCP sockets, on systems that do not show which of them a loop watches."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family in (socket.AF_INET, socket.AF_INET6):
                    found.add(int(name))
        except OSError:  # closed by now, or no socket
            continue
    return found


def _end_with_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    """Make the child exit when users' code returns to `loop`, before anything else that is scheduled there."""
    own: Any = vars(loop).values() if hasattr(loop, "_ready") else gc.get_referents(loop)  # uvloop hides attributes
    for ready in [found for found in own if type(found) is deque]:
        _kept.append(list(ready))
        ready.clear()
    for timers in [found for found in own if type(found) is set]:
        _kept.append(list(timers))
        for timer in list(timers):
            if isinstance(timer, asyncio.TimerHandle) or type(timer).__name__ == "TimerHandle":
                timer.cancel()  # uvloop's come before what is to run next
    loop.call_soon(_refuse_to_go_on)


def _refuse_to_go_on() -> None:
    _report("it cannot use the event loop of its parent")
    _exit(1)


class _End:
    """A work item of an executor that ends the process."""

    def run(self) -> None:
        _exit(0)


def _end_after_work_item() -> None:
    """If an executor's thread has forked, make the child exit after this work item."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is executors._worker.__code__:
            queue = frame.f_locals["work_queue"]
            while not queue.empty():
                _kept.append(queue.get_nowait())
            queue.put(_End())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_restore_signals, after_in_child=_in_child)
