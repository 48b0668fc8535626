"""The account that runs the servers: PostgreSQL refuses to run as root, so root runs it under another account.

That account must reach two things, even below a folder that only root may enter. The data folder is given to the
account, and opened through an inherited descriptor: `/proc/self/fd/N` does not pass through the parent folders.
The binaries are copied to a temporary folder if the account cannot run them in place. Neither needs a capability
or a helper, and the modes of all parent folders stay as they are.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oncecast.core.errors import StartError

ACCOUNT = "nobody"
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 - what is made there is made by mkdtemp


@dataclass(frozen=True, slots=True)
class Home:
    """A server's folder as its process sees it: `path` is valid in that process if it inherits `descriptor`."""

    path: str
    descriptors: tuple[int, ...]


def lent_account() -> Mapping[str, Any]:
    """Return the subprocess arguments that run a server: as root the account to drop to, else none."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise StartError(f"PostgreSQL does not run as root, and there is no account {ACCOUNT!r} here") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give(folder: Path, account: Mapping[str, Any]) -> None:
    """Give `folder` and its content to the account, and let nobody else enter it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account and folder.stat().st_uid != account["user"]:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account["user"], account["group"], follow_symlinks=False)


def home(folder: Path, account: Mapping[str, Any]) -> Home:
    """Return the path by which a process of `account` reaches `folder`."""
    if not account or is_reachable(folder.parent):
        return Home(str(folder), ())
    if not sys.platform.startswith("linux"):
        raise StartError(f"PostgreSQL does not run as root, and {ACCOUNT!r} cannot enter {folder.parent}")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return Home(f"/proc/self/fd/{descriptor}", (descriptor,))


def is_reachable(folder: Path) -> bool:
    """Return whether any account may enter `folder`."""
    resolved = folder.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (resolved, *resolved.parents))


def can_run(program: Path) -> bool:
    """Return whether any account may run `program` in place."""
    resolved = program.resolve()
    return (
        is_reachable(program.parent)
        and is_reachable(resolved.parent)
        and bool(resolved.stat().st_mode & stat.S_IXOTH)
    )


def place_for_all() -> Path:
    """Create a temporary folder that any account may read and only this account may change."""
    place = Path(tempfile.mkdtemp(prefix="oncecast-postgres-", dir=_open_folder()))
    place.chmod(0o755)
    return place


def copy_for_all(parts: Sequence[Path], place: Path) -> None:
    """Copy the folders `parts` to `place`, side by side, readable for any account. Raises StartError."""
    ignored = shutil.ignore_patterns("include", "__pycache__")
    try:
        for part in parts:
            shutil.copytree(part, place / part.name, ignore=ignored, copy_function=_copy_readable)
        for folder in place.rglob("*/"):
            folder.chmod(0o755)
    except OSError as error:  # shutil.Error, too
        raise StartError(f"cannot copy PostgreSQL to {place}: {error}") from None


def _copy_readable(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _open_folder() -> Path:
    """Return a folder for temporary files that any account may enter."""
    for folder in (Path(tempfile.gettempdir()), *map(Path, TEMPORARY_FOLDERS)):
        if folder.is_dir() and is_reachable(folder) and os.access(folder, os.W_OK):
            return folder
    raise StartError(f"{ACCOUNT!r} can enter no folder for temporary files; TMPDIR names another")
