"""The listener's HTTP face: the events that have ended, health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from oncecast.core.errors import Unavailable
from oncecast.http.problems import Problem, json_response, on_http_error, on_problem

PAGE_MAX_EVENTS = 1_000
PAGE_DEFAULT_EVENTS = 100


class Reader(Protocol):
    """Reads events back from where they ended, newest first."""

    async def newest(
        self,
        *,
        limit: int,
        after: str | None = None,
        type: str | None = None,
        status: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Up to `limit` events behind the page mark `after`; raises ValueError for a mark that is none."""


def listener_app(reader: Reader, *, health: Callable[[], dict[str, Any]], metrics: Callable[[], bytes]) -> ASGIApp:
    """The ASGI application."""

    async def events(request: Request) -> Response:
        """`GET /api/events?limit=&after=&type=&status=&source=&id=`."""
        query = request.query_params
        if query.get("status") not in (None, "stored", "dead"):
            raise Problem(400, "status is stored or dead")
        limit = _limit(query.get("limit", str(PAGE_DEFAULT_EVENTS)))
        filters = {name: query.get(name) for name in ("type", "status", "source", "id")}
        if any("\0" in (value or "") for value in filters.values()):
            raise Problem(400, "a filter cannot hold the character NUL")
        try:
            rows = await reader.newest(limit=limit, after=query.get("after"), **filters)
        except ValueError:
            raise Problem(400, "after is what 'next' of the page before says") from None
        following = rows[-1]["mark"] if len(rows) == limit else None
        return json_response(
            {"events": [{k: v for k, v in row.items() if k != "mark"} for row in rows], "next": following}
        )

    async def healthy(_request: Request) -> Response:
        return json_response(health())

    async def live(_request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(_request: Request) -> Response:
        report = health()
        return json_response(report, 200 if report["database"] == "ready" else 503)

    async def metrics_text(_request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            _route("/api/events", _degrading(events)),
            _route("/health", healthy),
            _route("/livez", live),
            _route("/readyz", ready),
            _route("/metrics", metrics_text),
        ],
        exception_handlers={Problem: on_problem, HTTPException: on_http_error},
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _route(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["GET"])


def _degrading(endpoint: Endpoint) -> Endpoint:
    """Say plainly that PostgreSQL is away, and when to ask again."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Unavailable as error:
            raise Problem(503, f"events cannot be read now: {error}", headers={"Retry-After": "2"}) from None

    return answer


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= PAGE_MAX_EVENTS):
        raise Problem(400, f"limit is a whole number from 1 to {PAGE_MAX_EVENTS}")
    return int(text)
