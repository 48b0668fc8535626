"""Addresses that people write: a path behind nginx, a Unix socket of Redis, and those that lead elsewhere."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from oncecast import Publisher
from oncecast.client.subscription import Tail
from oncecast.core.errors import Unavailable
from oncecast.embedded.ports import free_port
from oncecast.embedded.valkey import _binary
from oncecast.listener.feed.dial import Lost, websocket_dial
from oncecast.stores.redis import RedisLeases
from tests.support.producers import producer_process
from tests.support.stacks import StackOf, drained, rows, until

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /oncecast/ {{
      proxy_pass http://127.0.0.1:{producer}/;
      proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""


async def answers(port: int) -> None:
    async def is_there() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(is_there)


@asynccontextmanager
async def nginx(folder: Path, producer: int) -> AsyncIterator[int]:
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if binary is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, producer=producer))
    process = subprocess.Popen([binary, "-c", str(config), "-e", str(folder / "error.log")], cwd=folder)
    try:
        await answers(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_producer_behind_a_path_of_nginx_is_reached_with_and_without_a_slash(
    stack_of: StackOf, tmp_path: Path, slash: str
) -> None:
    with producer_process(tmp_path) as producer:
        async with nginx(tmp_path, producer.port) as port:
            address = f"127.0.0.1:{port}/oncecast{slash}"
            tail = aiter(Tail(f"http://{address}", earliest=True))
            async with Publisher(f"http://{address}") as publisher, asyncio.timeout(120):
                await publisher.publish({"id": "x"})
                assert (await anext(tail)).event.id == "x"
            await tail.aclose()

            async def way(name: str) -> dict[str, str]:
                return {"WS_URL": f"ws://{address}"} if name.startswith("listener") else {}

            async with stack_of(listeners=1, detour=way) as stack:

                async def stored() -> bool:
                    return await rows(stack, "select id from oncecast.events") == [("x",)]

                await until(stored)


async def test_a_listener_that_connects_to_a_listener_or_to_an_unknown_name_reports_it(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        listener = stack.listener_urls["listener-a"].replace("http", "ws")
        with pytest.raises(Lost, match="this is a listener"):
            async with websocket_dial({})(listener):
                pass
        await drained(stack)


async def test_a_producer_that_does_not_know_its_name_answers_421_with_the_setting(tmp_path: Path) -> None:
    with producer_process(tmp_path) as producer:
        request = (
            b"GET / HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
        writer.write(request)
        async with asyncio.timeout(120):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}")
        writer.close()
        assert b" 421 " in head.splitlines()[0]
        assert b"ALLOWED_HOSTS" in body
        with pytest.raises(Lost, match="the WebSocket of this producer is at /"):
            async with websocket_dial({})(f"{producer.ws}/elsewhere"):
                pass


@asynccontextmanager
async def valkey_on_a_socket(password: str) -> AsyncIterator[str]:
    with TemporaryDirectory(prefix="oc-") as folder:  # a socket's path is short
        path = f"{folder}/redis.sock"
        command = [str(_binary()), "--port", "0", "--unixsocket", path, "--requirepass", password, "--save", ""]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:

            async def is_there() -> bool:
                return Path(path).exists()

            await until(is_there)
            yield path
        finally:
            process.terminate()
            process.wait(20)


async def test_redis_on_a_unix_socket_works_with_a_database_and_a_password(tmp_path: Path) -> None:
    async with valkey_on_a_socket("hunter 2@") as path:
        url = f"unix://:hunter%202%40@{path}?db=3"
        leases = RedisLeases(url, group="g", token="a" * 16, lease_ttl_s=30, mark_ttl_s=15)
        await leases.heartbeat()
        assert (await leases.counters(["a" * 16]))["a" * 16] is not None
        await leases.close()
        wrong = RedisLeases(f"unix://:wrong@{path}", group="g", token="a" * 16, lease_ttl_s=30, mark_ttl_s=15)
        with pytest.raises(Unavailable):
            await wrong.heartbeat()
        await wrong.close()


async def test_a_stack_comes_up_and_works_though_every_proxy_variable_leads_nowhere(
    stack_of: StackOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("all_proxy", "ALL_PROXY", "socks_proxy", "SOCKS_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    async with stack_of(listeners=1) as stack:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish({"id": "x"})

        async def stored() -> bool:
            return await rows(stack, "select id from oncecast.events") == [("x",)]

        await until(stored)
        async with httpx2.AsyncClient(trust_env=False) as client:
            health = (await client.get(f"{stack.listener_urls['listener-a']}/health")).json()
        assert health["producers"][0]["connected"]
