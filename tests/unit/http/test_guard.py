"""OriginGuard passes requests to allowed hosts and, if a page writes, from allowed origins."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from oncecast.http.guard import SECURITY_HEADERS, OriginGuard

PASSED = 204


async def nothing() -> Message:
    raise AssertionError("the guard reads no body")


async def passed(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": PASSED, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body"})


async def messages(guard: OriginGuard, type: str = "http", method: str = "POST", **headers: str) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await guard({"type": type, "method": method, "path": "/", "headers": raw}, nothing, send)
    return sent


async def status(guard: OriginGuard, **request: Any) -> int:
    answer: int = (await messages(guard, **request))[0]["status"]
    return answer


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "name.example", "more.example:80"]
)
async def test_own_and_allowed_hosts_pass_with_any_port(host: str) -> None:
    guard = OriginGuard(passed, bound_host="name.example", allowed_hosts=["More.Example"])
    assert await status(guard, host=host) == PASSED


@pytest.mark.parametrize("host", ["evil.example", "", "[", "localhost.evil.example", "localhost@evil.example", "é"])
async def test_other_hosts_are_refused_for_every_method(host: str) -> None:
    guard = OriginGuard(passed, bound_host="127.0.0.1")
    assert [await status(guard, method=method, host=host) for method in ("GET", "POST")] == [421, 421]


@pytest.mark.parametrize("bound_host", ["0.0.0.0", "::"])
async def test_bound_to_all_addresses_every_host_is_allowed(bound_host: str) -> None:
    assert await status(OriginGuard(passed, bound_host=bound_host), host="any.example") == PASSED


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("http://localhost:8080", PASSED),
        ("HTTP://LocalHost:8080", PASSED),
        ("https://allowed.example", PASSED),
        ("http://localhost:9090", 403),
        ("http://localhost", 403),
        ("http://allowed.example", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("http://localhost:8080@evil.example", 403),
    ],
)
async def test_a_page_may_write_from_its_own_or_an_allowed_origin(origin: str, answer: int) -> None:
    guard = OriginGuard(passed, bound_host="127.0.0.1", allowed_origins=["https://Allowed.example/"])
    assert await status(guard, host="localhost:8080", origin=origin) == answer
    assert await status(guard, method="GET", host="localhost:8080", origin=origin) == PASSED


async def test_a_socket_of_a_foreign_page_is_refused() -> None:
    guard = OriginGuard(passed, bound_host="127.0.0.1")
    (close,) = await messages(guard, type="websocket", host="localhost", origin="http://evil.example")
    assert (close["type"], close["code"]) == ("websocket.close", 1008)


async def test_every_answer_has_the_security_headers() -> None:
    start, _ = await messages(OriginGuard(passed, bound_host="127.0.0.1"), host="localhost")
    assert start["headers"] == [(b"x-own", b"1"), *SECURITY_HEADERS]
    start, _ = await messages(OriginGuard(passed, bound_host="127.0.0.1"), host="evil.example")
    assert set(SECURITY_HEADERS) <= set(start["headers"])


async def test_other_scopes_pass() -> None:
    assert await status(OriginGuard(passed, bound_host="127.0.0.1"), type="lifespan") == PASSED
