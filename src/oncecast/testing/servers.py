"""One embedded PostgreSQL for all tests of a process: begun at its first use, ended with it, however that ends."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

from oncecast.core.errors import StartError

_lock = threading.Lock()
_url: Future[str] | None = None


async def embedded_postgres_url() -> str:
    """Its URL. Raises StartError where the extra `embedded` is not installed."""
    global _url
    with _lock:
        if _url is None:
            _url = Future()
            threading.Thread(target=_serve, args=(_url,), name="oncecast test server", daemon=True).start()
    return await asyncio.wrap_future(_url)


def _serve(url: Future[str]) -> None:
    try:
        asyncio.run(_run(url))
    except BaseException as error:  # whoever waits for the URL is told, on whatever it failed
        if not url.done():
            url.set_exception(error)


async def _run(url: Future[str]) -> None:
    try:
        from oncecast.embedded.guarded import Guard
        from oncecast.embedded.ports import LOOPBACK, free_ports
        from oncecast.embedded.postgres import EmbeddedPostgres
        from oncecast.embedded.process import Process
    except ImportError as error:
        raise StartError(f"there is no embedded PostgreSQL: pip install 'oncecast[embedded]' ({error})") from None
    folder = Path(tempfile.mkdtemp(prefix="oncecast-test-"))
    guard = Guard()
    guard.remove_at_end(folder)
    (port,) = free_ports(1)
    postgres = EmbeddedPostgres(folder / "postgres", port, folder / "postgres.url", guard)
    process = Process("postgres", f"{LOOPBACK}:{port}", postgres.launch, postgres.is_ready, guard.tell, guard.pipe)
    loop, ending, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def end() -> None:
        loop.call_soon_threadsafe(ending.set)
        ended.wait(20)

    try:
        async with asyncio.TaskGroup() as group:
            await process.start(group)
            await process.wait_ready()
            atexit.register(end)
            url.set_result(postgres.url)
            await ending.wait()
            await process.stop()
    finally:
        await asyncio.to_thread(guard.close)
        postgres.close()
        shutil.rmtree(folder, ignore_errors=True)
        ended.set()
