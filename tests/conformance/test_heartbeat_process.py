"""The process that beats for a listener: for as long as that lives and is not stopped, by whatever address."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio as redis

from oncecast.stores.redis import RedisLeases
from oncecast.stores.redis.leases import COUNTER_TTL_MS
from oncecast.stores.redis.pulse import Pulse
from tests.support.stacks import until

TOKEN = "a" * 16
MAKE_CERTIFICATE = [
    "openssl",
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
    "-days",
    "2",
    "-subj",
    "/CN=localhost",
    "-addext",
    "subjectAltName=DNS:localhost,IP:127.0.0.1",
]
HOLDER = """
import asyncio, ctypes, sys, time
from oncecast.stores.redis import RedisLeases

async def main():
    leases = RedisLeases(sys.argv[1], group=sys.argv[2], token="a" * 16, lease_ttl_s=30.0, mark_ttl_s=15.0)
    await leases.heartbeat()
    print(leases._pulse._process.pid, flush=True)
    ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock held

asyncio.run(main())
"""


@asynccontextmanager
async def observed(redis_url: str, schema: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """What the holder's counter is."""
    leases = RedisLeases(redis_url, group=schema, token="b" * 16, lease_ttl_s=30.0, mark_ttl_s=15.0)

    async def counter() -> object:
        return (await leases.counters([TOKEN]))[TOKEN]

    yield counter
    await leases.close()


async def moves(counter: Callable[[], Awaitable[object]], within_s: float = 10.0) -> None:
    before = await counter()

    async def has_moved() -> bool:
        return await counter() != before

    await until(has_moved, within_s)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_beats_while_the_interpreter_is_held_not_while_it_is_stopped_and_ends_with_its_listener(
    redis_url: str, schema: str
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, redis_url, schema], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        beating = int(await asyncio.to_thread(holder.stdout.readline))
    try:
        async with observed(redis_url, schema) as counter:
            for _ in range(3):
                await moves(counter)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(beating, number)
            await moves(counter)
            holder.send_signal(signal.SIGSTOP)
            await stands_still(counter)
            holder.send_signal(signal.SIGCONT)
            await moves(counter)
    finally:
        holder.kill()
        holder.wait()

    async def has_ended() -> bool:
        return not is_there(beating)

    await until(has_ended, within_s=5.0)


async def stands_still(counter: Callable[[], Awaitable[object]]) -> None:
    """Until two looks, two beats apart, find the same."""
    seen: list[object] = []

    async def is_the_same_for_long() -> bool:
        seen.append(await counter())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    await until(is_the_same_for_long, within_s=15.0)


async def test_a_beat_of_the_event_loop_starts_another_process_where_one_has_ended(
    redis_url: str, schema: str
) -> None:
    leases = RedisLeases(redis_url, group=schema, token=TOKEN, lease_ttl_s=30.0, mark_ttl_s=15.0)
    await leases.heartbeat()
    first = leases._pulse._process
    assert first is not None
    first.kill()
    first.wait()
    await leases.heartbeat()
    second = leases._pulse._process
    assert second is not None
    assert second.poll() is None
    await leases.close()
    assert second.poll() is not None


@asynccontextmanager
async def forwarded(redis_url: str, serve: Callable[..., Awaitable[asyncio.Server]]) -> AsyncIterator[asyncio.Server]:
    """A server that passes everything on to Redis."""
    parts = urlsplit(redis_url)

    passing: set[asyncio.Task[Any]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass  # it was reset: as if it had ended
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        passing.add(task)
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(pipe(reader, back))
            group.create_task(pipe(there, writer))

    async with await serve(accept) as server:
        yield server
        await asyncio.wait(passing, timeout=10.0)


async def beats_at(address: str, redis_url: str, schema: str) -> None:
    options = redis.Redis.from_url(address)
    key = f"oncecast:{{{schema}}}:h:{TOKEN}"
    pool = options.connection_pool
    is_tls = issubclass(pool.connection_class, redis.SSLConnection)
    pulse = Pulse(pool.connection_kwargs, is_tls=is_tls, key=key, ttl_ms=COUNTER_TTL_MS)
    pulse.keep()
    try:
        async with observed(redis_url, schema) as counter:
            await moves(counter)
            await moves(counter)
    finally:
        pulse.end()
        await options.aclose()


async def test_it_beats_over_a_unix_socket_with_a_password(redis_url: str, schema: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    password = urlsplit(redis_url).password
    async with forwarded(redis_url, lambda accept: asyncio.start_unix_server(accept, str(path))):
        await beats_at(f"unix://:{password}@{path}?db=0", redis_url, schema)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_it_beats_over_tls_that_is_verified(redis_url: str, schema: str, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [*MAKE_CERTIFICATE, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    password = urlsplit(redis_url).password
    async with forwarded(
        redis_url, lambda accept: asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    ) as server:
        port = server.sockets[0].getsockname()[1]
        await beats_at(f"rediss://:{password}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}", redis_url, schema)
