"""A real PgBouncer in front of the tests' PostgreSQL; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from oncecast.embedded.ports import LOOPBACK, free_port

START_DEADLINE_S = 30.0
CONFIGURATION = """
[databases]
{database} = host={host} port={port} dbname={database} user={user} password={password}
[pgbouncer]
listen_addr = {listen}
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
admin_users = oncecast
server_round_robin = {round_robin}
max_client_conn = 200
"""


class Pooler:
    """A PgBouncer process. Its mode can be changed while it runs."""

    def __init__(self, folder: Path, server_url: str, mode: str, size: int, *, round_robin: bool) -> None:
        self._server, self._port = urlsplit(server_url), free_port()
        self._file, self._size, self._round_robin = folder / "pgbouncer.ini", size, round_robin
        self._write(mode)
        is_root = os.geteuid() == 0  # which it refuses to run as
        self._process = subprocess.Popen(
            ["pgbouncer", "-q", str(self._file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user="nobody" if is_root else None,
            group="nogroup" if is_root else None,
            extra_groups=[] if is_root else None,
        )

    @property
    def url(self) -> str:
        """What a client connects to."""
        return self._server._replace(netloc=f"oncecast@{LOOPBACK}:{self._port}").geturl()

    def change_mode(self, mode: str) -> None:
        """As an administrator does: edit the file, and RELOAD."""
        self._write(mode)
        self._ask("RELOAD")

    def wait_ready(self) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                return self._ask("SHOW VERSION")
            except psycopg.OperationalError:
                assert self._process.poll() is None, "pgbouncer has ended"
                assert time.monotonic() < deadline_s, "pgbouncer does not answer"
                time.sleep(0.05)

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _ask(self, command: str) -> None:
        """In the simple protocol, which is all that its console speaks."""
        console = f"host={LOOPBACK} port={self._port} dbname=pgbouncer user=oncecast"
        pgconn = psycopg.pq.PGconn.connect(console.encode())
        try:
            if pgconn.status != psycopg.pq.ConnStatus.OK:
                raise psycopg.OperationalError(pgconn.get_error_message())
            pgconn.exec_(command.encode())
        finally:
            pgconn.finish()

    def _write(self, mode: str) -> None:
        self._file.write_text(
            CONFIGURATION.format(
                host=self._server.hostname,
                port=self._server.port,
                database=self._server.path.strip("/"),
                user=self._server.username,
                password=unquote(self._server.password or ""),
                listen=LOOPBACK,
                listen_port=self._port,
                mode=mode,
                size=self._size,
                round_robin=int(self._round_robin),
            )
        )
        self._file.chmod(0o644)


PoolerOf = Callable[..., Pooler]


@pytest.fixture
def pooler_of(postgres_url: str) -> Iterator[PoolerOf]:
    """`pooler_of("session", size=20)`: a PgBouncer that is ready; ended with the test."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed")
    begun: list[Pooler] = []
    with tempfile.TemporaryDirectory(prefix="oncecast-pooler-") as name:
        Path(name).chmod(0o755)

        def begin(mode: str, *, size: int = 20, round_robin: bool = False) -> Pooler:
            folder = Path(name) / str(len(begun))
            folder.mkdir(mode=0o755)
            begun.append(Pooler(folder, postgres_url, mode, size, round_robin=round_robin))
            begun[-1].wait_ready()
            return begun[-1]

        yield begin
        for pooler in begun:
            pooler.close()
