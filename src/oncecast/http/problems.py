"""HTTP errors as problem JSON (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope, Send

from oncecast.core.telemetry import RefusalKind

PROBLEM_TYPE = "application/problem+json"
_KINDS: Mapping[int, RefusalKind] = {401: "unauthorized", 413: "too_large"}


class ProblemDetails(msgspec.Struct):
    """A problem as RFC 9457 describes it."""

    title: str
    status: int
    detail: str


class Problem(Exception):
    """A refused request: the status, and `detail` with what is wrong, where, and what to do.

    `kind` says why, for metrics; it follows from the status where it is not given.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, kind: RefusalKind | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind: RefusalKind = kind or _KINDS.get(status, "invalid")
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def title(self) -> str:
        """Return the name of the status."""
        return HTTPStatus(self.status).phrase

    def body(self) -> bytes:
        """Return the problem as JSON, which escapes foreign text."""
        return msgspec.json.encode(ProblemDetails(self.title, self.status, self.detail))

    def response(self) -> Response:
        """Return the problem as a response."""
        return Response(self.body(), self.status, self.headers, PROBLEM_TYPE)


async def refuse_handshake(scope: Scope, problem: Problem, send: Send) -> None:
    """Answer a WebSocket handshake with `problem`, or with a plain 403 if the server supports nothing else."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
        return
    headers = [(b"content-type", PROBLEM_TYPE.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body()})


async def on_problem(_request: Request, error: Exception) -> Response:
    """Answer a Problem, as an exception handler of Starlette."""
    assert isinstance(error, Problem)  # noqa: S101 - it is registered for nothing else
    return error.response()


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer Starlette's 404 and 405 as problems."""
    status = getattr(error, "status_code", 500)
    headers = getattr(error, "headers", None)
    hint = {404: "there is nothing here", 405: "this address does not take this method"}
    return Problem(status, hint.get(status, HTTPStatus(status).phrase), headers=headers).response()


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `content` as a JSON response; `msgspec.Raw` values pass unchanged."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")
