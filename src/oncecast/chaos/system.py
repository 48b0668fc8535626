"""The system of a run: an embedded stack with a link, a TCP proxy, on every connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from oncecast.chaos.checks import reason
from oncecast.chaos.faults import Targets
from oncecast.chaos.links import Confirms, Link, any_answer, is_accepted, is_commit
from oncecast.chaos.stalls import POSTGRES, link
from oncecast.chaos.subject import SETUP, Subject, own
from oncecast.core.errors import ConfigError
from oncecast.embedded import Stack
from oncecast.embedded.ports import LOOPBACK
from oncecast.embedded.postgres import write_secret

PUBLISHERS = "publishers"
VALKEY = "valkey"
SERVICE_SETTINGS = {"JOURNAL_MAX_AGE": "20s"}
"""Retention follows the cursors closely, so that a wrong cursor is noticed."""


@dataclass(frozen=True, slots=True)
class System:
    """A running stack and its links by name: `listener-a>postgres`, `publishers>producer-b`, …"""

    stack: Stack
    links: Mapping[str, Link]

    def publish_url(self, producer: str) -> str:
        """Return the URL of a producer for publishers, over their link."""
        return f"http://{LOOPBACK}:{self.links[link(PUBLISHERS, producer)].port}"

    @property
    def targets(self) -> Targets:
        """The possible targets of faults, by category and kind."""
        servers = {POSTGRES: [POSTGRES], VALKEY: [VALKEY]}
        services = {"producers": self.stack.producers, "listeners": self.stack.listeners}
        return {
            "processes": {**services, **servers, "everything": [*self.stack.processes]},
            "links": {
                "to producers": [link(one, other) for one in self.stack.listeners for other in self.stack.producers],
                "to postgres": [link(one, POSTGRES) for one in self.stack.listeners],
                "to valkey": [link(one, VALKEY) for one in self.stack.listeners],
                "from publishers": [link(PUBLISHERS, producer) for producer in self.stack.producers],
            },
            "valkey": {VALKEY: [VALKEY]},
            "journals": {"producers": self.stack.producers},
        }


@asynccontextmanager
async def running(
    folder: Path, subject: Subject | None = None, *, listeners: int, producers: int, temporary: bool
) -> AsyncIterator[System]:
    """Run a system in `folder` for `subject`, by default the built-in one; a temporary folder is removed at the end.

    Raises StartError if it does not start, ConfigError if PostgreSQL refuses the setup.
    """
    subject = subject or own()
    links: dict[str, Link] = {}
    setting_up = asyncio.Lock()
    is_set_up = not subject.setup

    async def linked(one: str, other: str, confirms: Confirms) -> int:
        """Create a link; return the port at which `one` reaches `other`."""
        name = link(one, other)
        if name not in links:
            target_port = int(stack.process(other).address.rpartition(":")[2])
            links[name] = await ending.enter_async_context(Link(name, target_port, confirms))
        return links[name].port

    async def set_up() -> None:
        """Run the setup once, before the first listener starts."""
        nonlocal is_set_up
        async with setting_up:
            if not is_set_up:
                await _set_up(stack.database_url, subject.setup)
            is_set_up = True

    async def detour(name: str) -> Mapping[str, str]:
        if not name.startswith("listener"):
            return SERVICE_SETTINGS
        await set_up()
        database = _with_port(stack.database_url, await linked(name, POSTGRES, is_commit))
        redis = _with_port(stack.redis_url, await linked(name, VALKEY, any_answer))
        ports = [await linked(name, producer, any_answer) for producer in stack.producers]
        stack.folder(name).mkdir(exist_ok=True)
        write_secret(stack.folder(name) / "postgres.url", database)
        write_secret(stack.folder(name) / "redis.url", redis)
        return {
            "WS_URL": ",".join(f"ws://{LOOPBACK}:{port}" for port in ports),
            "DATABASE_URL_FILE": "postgres.url",
            "REDIS_URL_FILE": "redis.url",
            "LISTENER_GROUP": subject.group,
        }

    stack = Stack(
        folder,
        listeners=listeners,
        producers=producers,
        producer_port=0,
        listener_port=0,
        app=subject.target,
        app_dir=subject.app_dir,
        detour=detour,
        temporary=temporary,
    )
    async with AsyncExitStack() as ending:
        await ending.enter_async_context(stack)
        for producer in stack.producers:
            await linked(PUBLISHERS, producer, is_accepted)
        yield System(stack, links)


async def _set_up(url: str, statements: str) -> None:
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(statements.encode())
    except psycopg.Error as error:
        raise ConfigError(f"PostgreSQL does not take {SETUP}: {reason(error, statements)}") from None


def _with_port(url: str, port: int) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{port}")
