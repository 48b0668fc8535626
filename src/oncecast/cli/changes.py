"""Report which Python files of a folder change, as an editor saves them; for `--reload`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path

from oncecast.core.errors import StartError

QUIET_MS = 50
"""A change is reported once nothing more has changed for this long."""
CHECK_STOP_MS = 1000
SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages"))


class Changes:
    """The .py files of a folder that have changed since the last call of `next`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed: set[str] = set()
        self._any = asyncio.Event()

    async def next(self) -> list[str]:
        """Wait for a change; return the changed files, relative to the folder."""
        await self._any.wait()
        self._any.clear()
        changed, self._changed = self._changed, set()
        return sorted(_relative(path, self._folder) for path in changed)

    def add(self, paths: Iterable[str]) -> None:
        """Note that these files have changed."""
        for path in paths:
            # Python compares only seconds and size to decide whether its compiled file is still valid.
            with suppress(OSError):
                os.unlink(cache_from_source(path))
            self._changed.add(path)
            self._any.set()


@asynccontextmanager
async def changes_in(folder: Path, *, without: Path | None = None) -> AsyncIterator[Changes]:
    """Watch `folder`, except `without`, while the block runs. Raises StartError if it cannot be watched."""
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise StartError("--reload needs watchfiles: pip install 'oncecast[reload]'") from None
    changes = Changes(folder)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(folder, without, changes))
        await asyncio.sleep(0)  # let the watch start before the block runs
        try:
            yield changes
        finally:
            watching.cancel()


async def _watch(root: Path, without: Path | None, changes: Changes) -> None:
    from watchfiles import awatch

    turns = awatch(
        root,
        watch_filter=lambda _change, path: _may_hold_code(Path(path), root, without),
        step=QUIET_MS,
        rust_timeout=CHECK_STOP_MS,
        ignore_permission_denied=True,
    )
    try:
        async for turn in turns:
            for _, path in turn:
                # A new folder is watched only after its first files may have been written: report all of them.
                changes.add(filter(_is_code, _files_below(path)))
    except (OSError, RuntimeError) as error:
        raise StartError(f"cannot watch {root}: {error}") from None


def _may_hold_code(path: Path, root: Path, without: Path | None) -> bool:
    """Return whether `path` is Python code of the application, or is or was a folder that may hold some."""
    for folder in (path, *path.parents):
        if folder == root:
            return path.suffix in (".py", "") or path.is_dir()
        if folder.name.startswith(".") or folder.name in SKIPPED or folder == without:
            return False
        if (folder / "pyvenv.cfg").exists():
            return False
    return False


def _files_below(path: str) -> Iterable[str]:
    """Return the files in a folder and its subfolders; the path itself if it is not a folder."""
    if not os.path.isdir(path):
        return [path]
    return (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def _relative(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _is_code(path: str) -> bool:
    return path.endswith(".py") and not os.path.basename(path).startswith(".")
