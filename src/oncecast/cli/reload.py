"""`--reload`: the application is begun anew when its code changes, and stays as it was while that is broken."""

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
"""Ends at once, whatever threads the application has begun."""


async def run_reloading(target: str, app_dir: Path, flags: Mapping[str, str | None]) -> None:
    """`oncecast listener TARGET`, in a process of its own, anew with each change. Until cancelled."""
    from oncecast.embedded.guarded import Guard
    from oncecast.embedded.process import Launch, Process

    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None]
    launch = Launch(
        command=[sys.executable, "-P", "-m", "oncecast", "listener", target, f"--app-dir={app_dir}", *given],
        folder=Path.cwd(),
        # Without a handler that the group has had it would stand by, and one that is taken away is meant.
        environment={"PYTHONUNBUFFERED": "1", **os.environ, "FORCE_HANDLERS": "1"},
        log=None,
    )

    async def prepare() -> Launch:
        return launch

    async def is_ready() -> bool:
        return True

    def changed(process: Process) -> None:
        guard.tell(process)
        if process.state == "ended":
            output.note(f"the listener ended with status {process.returncode}; it begins anew with the next change")

    guard = Guard()
    listener = Process("listener", "", prepare, is_ready, changed, guard.pipe)
    try:
        async with changes_in(app_dir) as changes:
            try:
                while True:
                    await until_it_loads(target, app_dir, changes)
                    await listener.stop()
                    await listener.start()
                    tell_changed(await changes.next())
            finally:
                await listener.stop()
    finally:
        await asyncio.to_thread(guard.close)


async def until_it_loads(target: str, app_dir: Path, changes: Changes) -> None:
    """Until the application can be loaded; tells what is wrong with it, and waits for changes."""
    while problems := await _problems(target, app_dir):
        for problem in problems:
            output.note(f"❌ {problem}")
        output.note("waiting for the next change; until then everything stays as it was")
        tell_changed(await changes.next())


async def reload_listeners(
    target: str, app_dir: Path, changes: Changes, restart: Callable[[], Awaitable[None]]
) -> None:
    """`restart` with each change after which the application can be loaded. For ever."""
    while True:
        tell_changed(await changes.next())
        await until_it_loads(target, app_dir, changes)
        try:
            await restart()
        except StartError as error:
            output.note(f"❌ {error}")
        else:
            output.note(f"✅ {target} runs anew")


def tell_changed(names: Sequence[str]) -> None:
    """One line."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    output.note(f"🔄 {', '.join(names[:NAMES_SHOWN])}{more} changed")


async def _problems(target: str, app_dir: Path) -> list[str]:
    """What keeps the application from being loaded, tried in another process: this one cannot forget a module."""
    trial = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _TRY, target, str(app_dir)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LOADING_DEADLINE_S):
            _, said = await trial.communicate()
    except TimeoutError:
        return [f"{target} was not loaded within {LOADING_DEADLINE_S:.0f} s"]
    finally:
        if trial.returncode is None:
            trial.kill()
            await trial.wait()
    if not trial.returncode:
        return []
    lines = said.decode("utf-8", "replace").splitlines()
    told = [line.removeprefix(output.PREFIX) for line in lines if line.startswith(output.PREFIX)]
    return told or [f"{target} ended with status {trial.returncode} while it was loaded", *lines[-1:]]


def try_to_load(target: str, app_dir: str) -> int:
    """Load the application and say what is wrong with it; the exit status. In a process that does only this."""
    try:
        load_app(target, Path(app_dir))
    except OncecastError as error:
        for line in str(error).splitlines():
            output.error(line)
        return 1
    return 0
