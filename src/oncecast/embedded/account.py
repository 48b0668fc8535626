"""Whose processes the servers are. PostgreSQL refuses to run as root, so root lends it another account.

That account must reach two things, wherever root keeps them, even in a folder that only root may enter. The
data: the folder itself is given to the account, and named through a descriptor that the process inherits, since
`/proc/self/fd/N` leads into it without passing through the folders above. The binaries: they are copied to a
temporary place if the account cannot run them where they are. Both need no capability and no helper, and leave
the modes of all folders above as they are.
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
    """A server's folder as its process sees it: `path` is good in that process, `descriptor` must be passed."""

    path: str
    descriptors: tuple[int, ...]


def lent_account() -> Mapping[str, Any]:
    """What subprocess needs to run a server: nothing, or as root the account to drop to."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise StartError(f"PostgreSQL does not run as root, and there is no account {ACCOUNT!r} here") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give(folder: Path, account: Mapping[str, Any]) -> None:
    """Make `folder` and all in it the account's, and nobody else's to enter."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account and folder.stat().st_uid != account["user"]:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account["user"], account["group"], follow_symlinks=False)


def home(folder: Path, account: Mapping[str, Any]) -> Home:
    """How a process of `account` names `folder`."""
    if not account or is_reachable(folder.parent):
        return Home(str(folder), ())
    if not sys.platform.startswith("linux"):
        raise StartError(f"PostgreSQL does not run as root, and {ACCOUNT!r} cannot enter {folder.parent}")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return Home(f"/proc/self/fd/{descriptor}", (descriptor,))


def is_reachable(folder: Path) -> bool:
    """Whether any account may enter `folder`."""
    resolved = folder.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (resolved, *resolved.parents))


def can_run(program: Path) -> bool:
    """Whether any account may run `program` where it is."""
    resolved = program.resolve()
    return (
        is_reachable(program.parent)
        and is_reachable(resolved.parent)
        and bool(resolved.stat().st_mode & stat.S_IXOTH)
    )


def place_for_all() -> Path:
    """A new temporary folder that any account may read and only we may change."""
    place = Path(tempfile.mkdtemp(prefix="oncecast-postgres-", dir=_open_folder()))
    place.chmod(0o755)
    return place


def copy_for_all(parts: Sequence[Path], place: Path) -> None:
    """Copy the folders `parts` to `place`, side by side, readable for any account; raises StartError."""
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
    """A folder for temporary files that any account may enter."""
    for folder in (Path(tempfile.gettempdir()), *map(Path, TEMPORARY_FOLDERS)):
        if folder.is_dir() and is_reachable(folder) and os.access(folder, os.W_OK):
            return folder
    raise StartError(f"{ACCOUNT!r} can enter no folder for temporary files; TMPDIR names another")
