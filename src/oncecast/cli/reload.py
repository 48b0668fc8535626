"""`--reload`: restart the application when its code changes, unless the new code fails to load."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from oncecast.app.loading import load_app
from oncecast.cli import output
from oncecast.cli.changes import Changes, changes_in
from oncecast.core.errors import OncecastError, StartError

LOADING_DEADLINE_S = 30.0
NAMES_SHOWN = 3
_TRY = "import os, sys; from oncecast.cli.reload import try_to_load; os._exit(try_to_load(*sys.argv[1:]))"
"""Exits at once, even if the application has started threads."""


async def run_reloading(target: str, app_dir: Path, flags: Mapping[str, str | None]) -> None:
    """Run `oncecast listener TARGET` in a child process, and restart it after each change, until cancelled."""
    from oncecast.embedded.guarded import Guard
    from oncecast.embedded.process import Launch, Process

    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None]
    launch = Launch(
        command=[sys.executable, "-P", "-m", "oncecast", "listener", target, f"--app-dir={app_dir}", *given],
        folder=Path.cwd(),
        # A removed handler is intended: without this setting the listener would be on standby for it.
        environment={"PYTHONUNBUFFERED": "1", **os.environ, "FORCE_HANDLERS": "1"},
        log=None,
    )

    async def prepare() -> Launch:
        return launch

    async def is_ready() -> bool:
        return True

    def changed(process: Process) -> None:
        guard.update(process)
        if process.state == "ended":
            output.note(f"the listener ended with status {process.returncode}; it restarts after the next change")

    guard = Guard()
    listener = Process("listener", "", prepare, is_ready, changed, guard.pipe)
    try:
        async with changes_in(app_dir) as changes:
            try:
                while True:
                    await until_it_loads(target, app_dir, changes)
                    await listener.stop()
                    await listener.start()
                    print_changed(await changes.next())
            finally:
                await listener.stop()
    finally:
        await asyncio.to_thread(guard.close)


async def until_it_loads(target: str, app_dir: Path, changes: Changes) -> None:
    """Wait until the application can be loaded; print its errors and wait for changes."""
    while problems := await _problems(target, app_dir):
        for problem in problems:
            output.note(f"❌ {problem}")
        output.note("waiting for the next change; the old code keeps running until then")
        print_changed(await changes.next())


async def reload_listeners(
    target: str, app_dir: Path, changes: Changes, restart: Callable[[], Awaitable[None]]
) -> None:
    """Call `restart` after each change with which the application can be loaded, until cancelled."""
    while True:
        print_changed(await changes.next())
        await until_it_loads(target, app_dir, changes)
        try:
            await restart()
        except StartError as error:
            output.note(f"❌ {error}")
        else:
            output.note(f"✅ {target} restarted")


def print_changed(names: Sequence[str]) -> None:
    """Print the names of the changed files on one line."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    output.note(f"🔄 {', '.join(names[:NAMES_SHOWN])}{more} changed")


async def _problems(target: str, app_dir: Path) -> list[str]:
    """Return the errors of loading the application in a new process; this one cannot unload a module."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _TRY, target, str(app_dir)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LOADING_DEADLINE_S):
            _, said = await child.communicate()
    except TimeoutError:
        return [f"{target} was not loaded within {LOADING_DEADLINE_S:.0f} s"]
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if not child.returncode:
        return []
    lines = said.decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix(output.PREFIX) for line in lines if line.startswith(output.PREFIX)]
    return errors or [f"{target} ended with status {child.returncode} while it was loaded", *lines[-1:]]


def try_to_load(target: str, app_dir: str) -> int:
    """Load the application and print its errors; return the exit status. Runs in a process of its own."""
    try:
        load_app(target, Path(app_dir))
    except OncecastError as error:
        for line in str(error).splitlines():
            output.error(line)
        return 1
    return 0
