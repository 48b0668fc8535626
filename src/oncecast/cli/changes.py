"""What changes in a folder of Python code, as an editor saves it; for `--reload`.

Folders are watched one by one, so that those which are none of the application's cost nothing: hidden ones (where
`oncecast up` keeps its data), caches, virtual environments.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path

from oncecast.core.errors import StartError

QUIET_MS = 50
"""A change is told once nothing more has changed for so long."""
TURN_MS = 1000
GONE_PAUSE_S = 0.1
SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages"))


class Changes:
    """The .py files that have changed since they were last asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed: set[str] = set()
        self._any = asyncio.Event()

    async def next(self) -> list[str]:
        """Wait for some; their names in the folder."""
        await self._any.wait()
        self._any.clear()
        changed, self._changed = self._changed, set()
        return sorted(_named(path, self._folder) for path in changed)

    def add(self, paths: Collection[str]) -> None:
        """These have changed, if any."""
        for path in paths:
            # Python tells by the second and the size whether what it has compiled is still true.
            with suppress(OSError):
                os.unlink(cache_from_source(path))
        self._changed.update(paths)
        if self._changed:
            self._any.set()


@asynccontextmanager
async def changes_in(folder: Path, *, without: Path | None = None) -> AsyncIterator[Changes]:
    """Watch while the block runs; the folder `without` is none of it. Raises StartError where that cannot be."""
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise StartError("--reload needs watchfiles: pip install 'oncecast[reload]'") from None
    changes = Changes(folder)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(folder, without, changes))
        await asyncio.sleep(0)  # it watches by the time that it first waits
        try:
            yield changes
        finally:
            watching.cancel()


async def _watch(root: Path, without: Path | None, changes: Changes) -> None:
    known: set[str] = set()
    touched: set[str] = set()
    while True:
        folders = _folders(root, without)
        fresh = {folder for folder in folders if known and (folder not in known or folder in touched)}
        known = folders
        try:
            touched = await _watch_these(folders, fresh, changes)
        except FileNotFoundError:
            await asyncio.sleep(GONE_PAUSE_S)  # a folder was there only just now: look again
        except (OSError, RuntimeError) as error:
            raise StartError(f"cannot watch {root}: {error}") from None


async def _watch_these(folders: set[str], fresh: set[str], changes: Changes) -> set[str]:
    """Until folders have come or gone; those. What is in `fresh` ones is a change, being new."""
    from watchfiles import awatch

    there = _files(fresh)
    changes.add(there)
    turns = awatch(
        *folders,
        watch_filter=None,
        step=QUIET_MS,
        rust_timeout=TURN_MS,
        yield_on_timeout=True,
        recursive=False,
        ignore_permission_denied=True,
    )
    async with aclosing(turns):
        async for turn in turns:
            if fresh:  # what has come into them since we looked, before they were watched
                changes.add(dict(_files(fresh).items() - there.items()))
                fresh = set()
            paths = {path for _, path in turn}
            changes.add({path for path in paths if _is_code(path)})
            if touched := {path for path in paths if path in folders or _is_folder(path)}:
                return touched
    return set()


def _folders(root: Path, without: Path | None) -> set[str]:
    found = set()
    for folder, names, _ in os.walk(root):
        found.add(folder)
        names[:] = [name for name in names if _may_hold_code(Path(folder, name), without)]
    return found


def _may_hold_code(folder: Path, without: Path | None) -> bool:
    if folder.name.startswith(".") or folder.name in SKIPPED or folder == without:
        return False
    return not (folder / "pyvenv.cfg").exists()


def _files(folders: Collection[str]) -> dict[str, int]:
    """The code in these folders, and when each file was last changed."""
    found = {}
    for folder in folders:
        with suppress(OSError):
            found.update(
                {entry.path: entry.stat().st_mtime_ns for entry in os.scandir(folder) if _is_code(entry.path)}
            )
    return found


def _is_code(path: str) -> bool:
    return path.endswith(".py") and not os.path.basename(path).startswith(".")


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)


def _named(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder)
