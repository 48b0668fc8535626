"""The port is bound first, and named in errors; a server runs until it is stopped."""

from __future__ import annotations

import asyncio
import socket

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import StartError
from oncecast.http.problems import json_response
from oncecast.http.server import bind, serve


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await json_response({"client": scope["client"][0]})(scope, receive, send)


def test_a_port_in_use_is_named_with_the_option_that_chooses_another() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(StartError, match=r"port \d+: .*--port or PORT"):
        bind("127.0.0.1", first.getsockname()[1])


def test_an_invalid_address_is_named() -> None:
    with pytest.raises(StartError, match="cannot listen on no such host"):
        bind("no such host", 0)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the option is Linux's")
def test_connections_inherit_the_deadline_for_unacknowledged_data() -> None:
    with bind("127.0.0.1", 0) as listening:
        listening.setblocking(True)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_answers_are_sent_without_delay() -> None:
    without_delay: list[int] = []

    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        without_delay.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listening = bind("127.0.0.1", 0)
    async with await asyncio.start_server(connected, sock=listening):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert without_delay == [1]


async def test_a_server_serves_until_stopped_and_ignores_forwarded_headers() -> None:
    stop = asyncio.Event()
    listening = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    serving = asyncio.create_task(serve(echo, listening, stop, SYSTEM_CLOCK, ws_max_bytes=1_000))
    async with httpx2.AsyncClient() as client:
        answer = await client.get(url, headers={"x-forwarded-for": "192.0.2.1"})
        assert answer.json() == {"client": "127.0.0.1"}
        assert not {"server", "date"} & set(answer.headers)
    stop.set()
    async with asyncio.timeout(120):
        await serving
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(url)
