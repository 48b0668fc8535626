"""One embedded PostgreSQL for all tests of a process: begun at its first use, ended with it, however that ends.

It lives in a thread with a loop of its own, since each test has another. A guard ends it if the process is killed.
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
"""What it holds is to outlive nothing, and commits are quick."""


class Server:
    """The thread, and what it serves."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self.url: Future[str] = Future()
        self.url.set_running_or_notify_cancel()  # all tests share it: the one that gives up shall not cancel it
        self._end: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._serve, name="oncecast test server", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be had: its start failed."""
        return self.url.done() and self.url.exception() is not None

    def end(self) -> None:
        """Stop it; nobody can use it any more."""
        if self._end is not None:
            self._end()
            self._thread.join(END_DEADLINE_S)

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # whoever waits for the URL is told, on whatever it failed
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
        """Nothing here may need another thread to end: when Python ends, it lets none begin."""
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
    """Its URL, which has a password. Raises StartError where the extra `embedded` is missing, or it cannot begin.

    Whoever is cancelled meanwhile leaves it to others; after a failed start the next use tries again.
    """
    global _server
    with _lock:
        if _server is None or _server.has_failed:
            _server = Server(settings)
        url = _server.url
    return await asyncio.wrap_future(url)


@atexit.register
def end_server() -> None:
    """Stop it, if it was begun; the next use begins another."""
    global _server
    with _lock:
        server, _server = _server, None
    if server is not None:
        server.end()
