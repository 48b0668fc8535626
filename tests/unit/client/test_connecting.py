"""Loopback never uses a proxy; elsewhere an error names the proxy, its variable and the remedy."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from oncecast.client import ProducerRefused, SyncPublisher
from oncecast.client.connecting import http_proxy, websocket_proxy
from oncecast.client.subscription import Tail
from oncecast.core.errors import ConfigError
from oncecast.listener.feed.dial import Lost, websocket_dial
from tests.support.scripted_producer import Producer

VARIABLES = ("http", "https", "all", "ws", "wss", "socks", "no")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.fixture
def everything_set(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "ws", "wss", "socks"):
        monkeypatch.setenv(
            f"{name}_proxy", "socks5://127.0.0.1:9" if name in ("socks", "all") else "http://127.0.0.1:9"
        )


@pytest.mark.usefixtures("everything_set")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_loopback_never_uses_a_proxy(host: str) -> None:
    assert websocket_proxy(f"ws://{host}:8080") is None
    assert websocket_proxy(f"wss://{host}:8080") is None
    assert http_proxy(f"http://{host}:8080") is None
    assert http_proxy(f"https://{host}") is None


@pytest.mark.usefixtures("everything_set")
async def test_clients_reach_a_producer_on_this_machine() -> None:
    with Producer().in_a_thread() as url, SyncPublisher(url) as publisher:
        publisher.publish({"id": "x"})

    async def answers(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.IM_A_TEAPOT, "no")

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=answers) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ProducerRefused, match="HTTP 418"):
            await anext(aiter(Tail(f"http://{address}")))
        assert "HTTP 418" in await lost(f"ws://{address}")


def test_no_proxy_and_the_order_of_variables_choose_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@proxy:3128")
    monkeypatch.setenv("all_proxy", "proxy:1")
    proxy = websocket_proxy("ws://shop.example")
    assert str(proxy) == "the proxy http://proxy:3128 (HTTPS_PROXY)"
    assert http_proxy("http://shop.example") == ("http://proxy:1", "all_proxy")
    monkeypatch.setenv("no_proxy", "shop.example")
    assert websocket_proxy("ws://shop.example") is None
    assert http_proxy("http://shop.example") is None


async def lost(url: str) -> str:
    with pytest.raises(Lost) as caught:
        async with websocket_dial({})(url):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("https_proxy", "http://u:hunter2@127.0.0.1:9", ("the proxy http://127.0.0.1:9 (https_proxy)", "WS_URL")),
        ("SOCKS_PROXY", "socks5://127.0.0.1:9", ("SOCKS_PROXY", "pip install python-socks")),
        ("http_proxy", "nonsense://u:hunter2@x", ("http_proxy", "correct or unset")),
        ("ws_proxy", "http://u:hunter2@[", ("ws_proxy", "correct or unset")),
    ],
)
async def test_a_failing_proxy_is_named_with_its_variable_but_no_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, parts: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, value)
    reason = await lost("ws://producer.example/")
    assert all(part in reason for part in parts), reason
    assert "hunter2" not in reason
    assert "\n" not in reason


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "nonsense://u:hunter2@x"])
def test_a_publisher_reports_an_unusable_proxy_at_once(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(ConfigError, match="ALL_PROXY") as caught:
        SyncPublisher("http://producer.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "parts"),
    [
        (401, b'{"detail":"this needs a token"}', ("HTTP 401", "this needs a token", "LISTENER_TOKEN")),
        (421, b'{"detail":"not a known host\\n\\u001b[1m"}', ("HTTP 421", "not a known host", "ALLOWED_HOSTS")),
        (404, b"<html>", ("HTTP 404", "check the address")),
        (502, b"", ("HTTP 502", "is not ready")),
        (200, b"hello", ("HTTP 200", "is it a producer?")),
    ],
)
async def test_an_error_has_the_answer_and_the_setting_that_helps(
    status: int, body: bytes, parts: tuple[str, ...]
) -> None:
    def answer(connection: ServerConnection, request: Request) -> Response:
        return Response(status, "no", Headers({"content-length": str(len(body))}), body)

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=answer) as server:
        reason = await lost(f"ws://u:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert all(part in reason for part in parts), reason
    assert "hunter2" not in reason
    assert reason.isprintable()


async def test_tls_to_a_plaintext_server_is_reported() -> None:
    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0) as server:
        assert "use ws://" in await lost(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_a_server_without_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x16")  # TLS's answer to plaintext
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        reason = await lost(f"ws://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert "wss://" in reason
