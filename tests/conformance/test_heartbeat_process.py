"""The process that sends a listener's heartbeats, as long as the listener lives and is not stopped."""

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
LEASE_OWNER = """
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
    """What the lease_owner's counter is."""
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
async def test_heartbeats_continue_while_the_gil_is_held_and_stop_while_the_listener_is_stopped_or_gone(
    redis_url: str, schema: str
) -> None:
    lease_owner = subprocess.Popen(
        [sys.executable, "-c", LEASE_OWNER, redis_url, schema], stdout=subprocess.PIPE, text=True
    )
    assert lease_owner.stdout is not None
    with lease_owner.stdout:
        beating = int(await asyncio.to_thread(lease_owner.stdout.readline))
    try:
        async with observed(redis_url, schema) as counter:
            for _ in range(3):
                await moves(counter)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(beating, number)
            await moves(counter)
            lease_owner.send_signal(signal.SIGSTOP)
            await stands_still(counter)
            lease_owner.send_signal(signal.SIGCONT)
            await moves(counter)
    finally:
        lease_owner.kill()
        lease_owner.wait()

    async def has_ended() -> bool:
        return not is_there(beating)

    await until(has_ended, within_s=5.0)


async def stands_still(counter: Callable[[], Awaitable[object]]) -> None:
    """Wait until two readings of the counter, two heartbeats apart, are equal."""
    seen: list[object] = []

    async def is_the_same_for_long() -> bool:
        seen.append(await counter())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    await until(is_the_same_for_long, within_s=15.0)


async def test_the_event_loop_restarts_a_heartbeat_process_that_has_ended(redis_url: str, schema: str) -> None:
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


async def sends_heartbeats_at(address: str, redis_url: str, schema: str) -> None:
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


async def test_it_sends_heartbeats_over_a_unix_socket_with_a_password(
    redis_url: str, schema: str, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    password = urlsplit(redis_url).password
    async with forwarded(redis_url, lambda accept: asyncio.start_unix_server(accept, str(path))):
        await sends_heartbeats_at(f"unix://:{password}@{path}?db=0", redis_url, schema)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_it_sends_heartbeats_over_verified_tls(redis_url: str, schema: str, tmp_path: Path) -> None:
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
        await sends_heartbeats_at(
            f"rediss://:{password}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}", redis_url, schema
        )
