"""Check Host (against DNS rebinding) and Origin (against foreign pages), and add security headers.

A request without `Origin` does not come from a page, and passes. Middleware for a whole ASGI application.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oncecast.core.telemetry import AccessRefused, Record, ignore
from oncecast.http.problems import Problem, refuse_handshake

LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none';"
        b" form-action 'self'; frame-ancestors 'none'",
    ),
)


class OriginGuard:
    """Passes requests to an allowed host; a page's writes and WebSockets also need an allowed origin."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        bound_host: str,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        record: Record = ignore,
    ) -> None:
        self._app = app
        self._record = record
        self._any_host = bound_host in ("0.0.0.0", "::")  # bound to all addresses: the host's names are unknown
        self._hosts = LOCAL_HOSTS | {bound_host.lower()} | {host.lower() for host in allowed_hosts}
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and add the security headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = self._check(scope)
        if problem is None:
            await self._app(scope, receive, _with_security_headers(send) if scope["type"] == "http" else send)
            return
        self._record(AccessRefused(problem.status, problem.detail))
        if scope["type"] == "http":
            await problem.response()(scope, receive, _with_security_headers(send))
        else:
            await refuse_handshake(scope, problem, send)

    def _check(self, scope: Scope) -> Problem | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._any_host and _host_name(host) not in self._hosts:
            return Problem(421, "this host name is not allowed; add it to ALLOWED_HOSTS")
        origin = headers.get(b"origin")
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if origin is None or not writes or self._is_own(origin.decode("latin-1"), host):
            return None
        return Problem(403, "pages of this origin may not write; add it to ALLOWED_ORIGINS")

    def _is_own(self, origin: str, host: str) -> bool:
        _, _, authority = origin.lower().rstrip("/").partition("://")
        return authority == host.lower() or origin.lower().rstrip("/") in self._origins


@lru_cache(64)
def _host_name(host: str) -> str:
    """Return the host name without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
        await send(message)

    return send_with_headers
