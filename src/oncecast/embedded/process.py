"""A supervised child process: start, watch, stop, kill, pause. It is never restarted automatically."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oncecast.core.errors import StartError

READY_DEADLINE_S = 60.0
READY_INTERVAL_S = 0.03
LOG_TAIL_BYTES = 2_000
KILL_DEADLINE_S = 10.0
_ANNOUNCE = """trap '' PIPE; echo "+$$ $0" >&0 2>/dev/null; trap - PIPE; exec "$@" </dev/null"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a process, and how to end it."""

    command: Sequence[str]
    folder: Path
    """The working folder."""
    environment: Mapping[str, str]
    account: Mapping[str, Any] = field(default_factory=dict)
    """The account, as subprocess arguments: `user`, `group`, `extra_groups`; this process's account if empty."""
    descriptors: Sequence[int] = ()
    stop_signal: int = signal.SIGTERM
    abort_signal: int = signal.SIGTERM
    """The signal that the guard sends when the supervisor is gone."""
    log: str | None = "output.log"
    """The file in the folder for its output; None: the output of this process."""


def announced(command: Sequence[str], abort_signal: int) -> list[str]:
    """Return a command that writes `+PID SIGNAL` to its standard input, the guard's pipe, then runs `command`.

    The child registers itself before it becomes the command: a supervisor that did this could be killed just before,
    and leave a process that the guard does not know.
    """
    return ["/bin/sh", "-c", _ANNOUNCE, str(int(abort_signal)), *command]


class Process:
    """One process of a stack. `ready()` returns whether it is ready; `changed(process)` runs after a change.

    `guard_pipe` is the pipe on which it registers itself.
    """

    def __init__(
        self,
        name: str,
        address: str,
        prepare: Callable[[], Awaitable[Launch]],
        ready: Callable[[], Awaitable[bool]],
        changed: Callable[[Process], None],
        guard_pipe: int,
    ) -> None:
        self.name = name
        self.address = address
        self.wanted = False
        self._prepare = prepare
        self._ready = ready
        self._changed = changed
        self._guard_pipe = guard_pipe
        self._launch: Launch | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._log_began_bytes = 0
        self._paused = False
        self._was_ready = False
        self._turn = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def returncode(self) -> int | None:
        """The exit status of the last run, negative for a signal; None while it runs."""
        return None if self._child is None else self._child.returncode

    @property
    def state(self) -> str:
        """`running`, `paused`, `stopped`, or `ended` if it ended without a request."""
        if self.pid is not None:
            return "paused" if self._paused else "running"
        return "ended" if self.wanted else "stopped"

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a request after it was ready; before that, `wait_ready` raises an error."""
        return self.state == "ended" and self._was_ready

    async def start(self) -> None:
        """Start it and return at once. Does nothing while it runs."""
        async with self._turn:
            if self.pid is None:
                await self._begin()

    async def _begin(self) -> None:
        launch = self._launch = await self._prepare()
        launch.folder.mkdir(parents=True, exist_ok=True)
        log = None
        if launch.log is not None:
            log = os.open(launch.folder / launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._log_began_bytes = os.fstat(log).st_size
        try:
            self._child = await asyncio.create_subprocess_exec(
                *announced(launch.command, launch.abort_signal),
                cwd=launch.folder,
                env=dict(launch.environment),
                stdin=self._guard_pipe,
                stdout=log,
                stderr=log,
                pass_fds=tuple(launch.descriptors),
                start_new_session=True,
                **launch.account,
            )
        finally:
            if log is not None:
                os.close(log)
        self.wanted, self._paused, self._was_ready = True, False, False
        self._changed(self)
        self._watcher = asyncio.create_task(self._watch(self._child))

    async def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until it is ready. Raises StartError with the end of its log if it ends or takes too long."""
        began_s = time.monotonic()
        while not await self._ready():
            if self.pid is None:
                raise StartError(f"{self.name} ended with status {self.returncode}: {self.last_words()}")
            if time.monotonic() - began_s > deadline_s:
                raise StartError(f"{self.name} was not ready within {deadline_s:.0f} s: {self.last_words()}")
            await asyncio.sleep(READY_INTERVAL_S)
        self._was_ready = True

    async def stop(self, deadline_s: float = 20.0) -> None:
        """Send its stop signal, and SIGKILL after `deadline_s` or when this call is cancelled.

        A start that is requested meanwhile waits for the end.
        """
        async with self._turn:
            self.wanted = False
            if self.pid is not None and self._launch is not None:
                self.resume()
                self._signal(self._launch.stop_signal)
                try:
                    if not await self._has_ended(deadline_s):
                        await self.kill()
                finally:
                    self._signal(signal.SIGKILL)
            self._changed(self)

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end. Raises StartError if the system does not end it in time."""
        self.wanted = False
        pid = self.pid
        self._signal(signal.SIGKILL)
        if not await self._has_ended(KILL_DEADLINE_S):
            raise StartError(f"{self.name} (process {pid}) does not end, not even by SIGKILL")

    def abort(self) -> None:
        """Send SIGKILL without waiting."""
        self.wanted = False
        self._signal(signal.SIGKILL)

    async def _has_ended(self, within_s: float) -> bool:
        """Wait for its end; polls the child itself, because the watcher may have been cancelled."""
        try:
            async with asyncio.timeout(within_s):
                if self._child is not None:
                    await self._child.wait()
        except TimeoutError:
            return False
        return True

    def pause(self) -> None:
        """Send SIGSTOP."""
        self._paused = True
        self._signal(signal.SIGSTOP)
        self._changed(self)

    def resume(self) -> None:
        """Send SIGCONT."""
        if self._paused:
            self._paused = False
            self._signal(signal.SIGCONT)
            self._changed(self)

    def last_words(self) -> str:
        """Return the end of its output since the start, on one line."""
        if self._launch is None or self._launch.log is None:
            return ""
        try:
            with (self._launch.folder / self._launch.log).open("rb") as log:
                log.seek(max(self._log_began_bytes, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return " | ".join([line.strip() for line in lines if line.strip()][-3:])

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        await child.wait()
        self._changed(self)

    def _signal(self, number: int) -> None:
        if self._child is not None and self._child.returncode is None:
            try:
                self._child.send_signal(number)
            except ProcessLookupError:
                return  # it has just ended
