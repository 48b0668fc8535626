"""A real PostgreSQL and Valkey for the whole test run; each test has a schema and a key space of its own."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from oncecast.embedded.guarded import Guard
from oncecast.embedded.ports import LOOPBACK, free_ports
from oncecast.embedded.postgres import EmbeddedPostgres
from oncecast.embedded.process import Process
from oncecast.embedded.valkey import EmbeddedValkey


class Servers(NamedTuple):
    """The URLs of both, with their passwords."""

    postgres_url: str
    redis_url: str


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    began, end = threading.Event(), threading.Event()
    urls: list[Servers] = []
    failures: list[BaseException] = []

    async def run(folder: Path) -> None:
        guard = Guard()
        ports = free_ports(2)
        postgres = EmbeddedPostgres(folder / "postgres", ports[0], folder / "postgres.url", guard)
        valkey = EmbeddedValkey(folder / "valkey", ports[1], folder / "redis.url")
        try:
            await serve(postgres, valkey, guard)
        finally:
            await asyncio.to_thread(guard.close)
            postgres.close()

    async def serve(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, guard: Guard) -> None:
        processes = [
            Process(name, f"{LOOPBACK}:{server.port}", server.launch, server.is_ready, guard.update, guard.pipe)
            for name, server in (("postgres", postgres), ("valkey", valkey))
        ]
        try:
            for process in processes:
                await process.start()
            for process in processes:
                await process.wait_ready()
            urls.append(Servers(postgres.url, valkey.url))
            began.set()
            await asyncio.to_thread(end.wait)
        finally:
            for process in processes:
                await process.stop()

    def main() -> None:
        try:
            asyncio.run(run(tmp_path_factory.mktemp("servers")))
        except BaseException as error:
            failures.append(error)
        finally:
            began.set()

    thread = threading.Thread(target=main, name="servers")
    thread.start()
    try:
        began.wait()
        if failures:
            raise failures[0]
        yield urls[0]
    finally:
        end.set()
        thread.join()


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """With its password."""
    return servers.postgres_url


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """With its password."""
    return servers.redis_url


@pytest.fixture
def schema() -> str:
    """A name for a schema, a group, a key space of this test's own."""
    return f"t_{uuid.uuid4().hex[:12]}"
