"""One embedded PostgreSQL for all tests of a process: started at its first use, stopped when the process ends.

It runs in a thread with its own event loop, since each test has another. A guard stops it if the process is killed.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from oncecast.embedded.guarded import Guard
from oncecast.embedded.ports import LOOPBACK, free_port
from oncecast.embedded.postgres import EmbeddedPostgres, check_installed
from oncecast.embedded.process import Process

END_DEADLINE_S = 20.0
UNSAFE = {"fsync": "off", "full_page_writes": "off"}
"""Settings for fast commits, without durability: tests need none."""


class Server:
    """The thread and its server."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self.url: Future[str] = Future()
        self.url.set_running_or_notify_cancel()  # shared by all tests: a cancelled one must not cancel it
        self._end: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._serve, name="oncecast test server", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether the start failed."""
        return self.url.done() and self.url.exception() is not None

    def end(self) -> None:
        """Stop the server for all users."""
        if self._end is not None:
            self._end()
            self._thread.join(END_DEADLINE_S)

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # every waiting test gets the error, of whatever kind
            if not self.url.done():
                self.url.set_exception(error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)

    async def _run(self) -> None:
        check_installed()
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="oncecast-test-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            guard = Guard()
            stack.callback(guard.close)
            guard.remove_at_end(folder)
            port = free_port()
            postgres = EmbeddedPostgres(
                folder / "postgres", port, folder / "postgres.url", guard, settings=self._settings
            )
            stack.callback(postgres.close)
            process = Process(
                "postgres", f"{LOOPBACK}:{port}", postgres.launch, postgres.is_ready, guard.update, guard.pipe
            )
            await self._run_process(process, postgres)

    async def _run_process(self, process: Process, postgres: EmbeddedPostgres) -> None:
        """Run the process; never start a thread, which Python refuses while it ends."""
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        await process.start()
        try:
            await process.wait_ready()
            self._end = lambda: loop.call_soon_threadsafe(ending.set)
            self.url.set_result(postgres.url)
            await ending.wait()
        finally:
            await process.stop()


_lock = threading.Lock()
_server: Server | None = None


async def embedded_postgres_url(settings: Mapping[str, str] = UNSAFE) -> str:
    """Return the URL of the server, with its password. Raises StartError if it cannot start.

    A cancelled caller leaves it running for others; after a failed start, the next call tries again.
    """
    global _server
    with _lock:
        if _server is None or _server.has_failed:
            _server = Server(settings)
        url = _server.url
    return await asyncio.wrap_future(url)


@atexit.register
def end_server() -> None:
    """Stop the server if it runs; the next use starts another."""
    global _server
    with _lock:
        server, _server = _server, None
    if server is not None:
        server.end()
