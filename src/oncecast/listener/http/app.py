"""The listener's HTTP API: ended events, health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from oncecast.core.errors import DataRefused, InvalidPageMark, RowLocked, Unavailable
from oncecast.core.health import Status
from oncecast.http.liveness import liveness
from oncecast.http.openapi import document_routes
from oncecast.http.params import texts, whole_number
from oncecast.http.problems import Problem, json_response, on_http_error, on_problem, refuse_handshake
from oncecast.http.tokens import Right
from oncecast.listener.http.openapi import ListenerHealth, listener_document
from oncecast.tasks import Essentials

EVENTS_PATH = "/api/events"
RETRYING_PATH = "/api/retrying"
PAGE_MAX_EVENTS = 1_000
PAGE_DEFAULT_EVENTS = 100
RETRY_AFTER = {"Retry-After": "2"}


def right_for(scope: Scope) -> Right | None:
    """Return the right that a request needs: reading or operating; None for health and metrics."""
    if scope["type"] != "http" or not scope["path"].startswith("/api/"):
        return None
    return "subscribe" if scope["method"] in ("GET", "HEAD") else "admin"


class EventRows(Protocol):
    """Reads ended events from the store, newest first."""

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
        """Return up to `limit` events after the page mark `after`; raises InvalidPageMark.

        Large events shorten a page: then its last row has `is_cut`.
        """

    async def retrying(self, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return up to `limit` events that wait for their next attempt, the next first; `after` as for `newest`."""

    async def gaps(self) -> list[dict[str, Any]]:
        """Return the gaps: offsets that the group could not read, newest first."""


class Memory(Protocol):
    """Has some of the newest events while PostgreSQL is down; otherwise as `EventRows.newest`."""

    def newest(
        self,
        *,
        limit: int,
        type: str | None = None,
        status: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` events, newest first."""


def listener_app(
    reader: EventRows,
    memory: Memory,
    further: Sequence[BaseRoute],
    *,
    health: Callable[[], ListenerHealth],
    essentials: Essentials,
    metrics: Callable[[], bytes],
) -> Starlette:
    """Return the ASGI application with `further` routes; `health()` shows whether to query PostgreSQL."""

    async def events(request: Request) -> Response:
        """`GET /api/events?limit=&after=&type=&status=&source=&id=`."""
        filters = texts(request, ("type", "status", "source", "id"))
        if filters["status"] not in (None, "stored", "dead"):
            raise Problem(400, "status is stored or dead")
        limit = limit_of(request)
        rows, stale = await read(limit, request.query_params.get("after"), filters)
        return json_response({**page("events", rows, limit), "stale": stale})

    async def read(
        limit: int, after: str | None, filters: dict[str, str | None]
    ) -> tuple[list[dict[str, Any]], bool]:
        try:
            if after is None and health().parts["database"].status is not Status.OK:
                raise Unavailable("PostgreSQL is down")
            return await reader.newest(limit=limit, after=after, **filters), False
        except Unavailable:
            if after is not None:
                raise
            return memory.newest(limit=limit, **filters), True

    async def event(request: Request) -> Response:
        """`GET /api/events/{id}?source=`."""
        filters = {**texts(request, ("source",)), "id": request.path_params["id"]}
        rows, stale = await read(2, None, filters)
        if len(rows) > 1:
            raise Problem(409, "events of several sources have this id: name one with ?source=")
        if not rows:
            if stale:
                raise Unavailable("PostgreSQL is down")
            raise Problem(404, "no event with this id has ended")
        return json_response({**without_mark(rows[0]), "stale": stale})

    async def retrying(request: Request) -> Response:
        """`GET /api/retrying?limit=&after=`."""
        limit = limit_of(request)
        rows = await reader.retrying(limit=limit, after=request.query_params.get("after"))
        return json_response(page("retrying", rows, limit))

    async def gaps(_request: Request) -> Response:
        return json_response({"gaps": await reader.gaps()})

    async def healthy(_request: Request) -> Response:
        return json_response(health())

    async def live(_request: Request) -> Response:
        return liveness(essentials)

    async def ready(_request: Request) -> Response:
        report = health()
        return json_response(report, 200 if report.status.is_ready else 503)

    async def metrics_text(_request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            route(EVENTS_PATH, events),
            route(f"{EVENTS_PATH}/{{id:path}}", event),
            route(RETRYING_PATH, retrying),
            route("/api/gaps", gaps),
            *further,
            route("/health", healthy),
            route("/livez", live),
            route("/readyz", ready),
            route("/metrics", metrics_text),
            *document_routes(openapi=listener_document(right_for)),
            WebSocketRoute("/{path:path}", _refuse_socket),
        ],
        exception_handlers={Problem: on_problem, HTTPException: on_http_error},
    )


async def _refuse_socket(socket: WebSocket) -> None:
    problem = Problem(404, "this is a listener: only producers have a WebSocket; check WS_URL")
    await refuse_handshake(socket.scope, problem, socket.send)


Endpoint = Callable[[Request], Awaitable[Response]]


def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    """Return a route that answers 503 with Retry-After while PostgreSQL is down or the row is locked."""

    async def answer(request: Request) -> Response:
        if "\0" in request.path_params.get("id", ""):
            raise Problem(404, "no event can have an id with the character NUL")
        try:
            return await endpoint(request)
        except RowLocked as error:
            raise Problem(503, f"locked by another session: {error}", headers=RETRY_AFTER) from None
        except Unavailable as error:
            raise Problem(503, f"PostgreSQL is unavailable: {error}", headers=RETRY_AFTER) from None
        except DataRefused as error:
            raise Problem(422, f"PostgreSQL cannot store this: {error}") from None
        except InvalidPageMark:
            raise Problem(400, "invalid `after`: pass the `next` value of the previous page") from None

    return Route(path, answer, methods=list(methods) or ["GET"])


def limit_of(request: Request) -> int:
    """Return the maximum number of entries of a list; raises Problem 400."""
    return whole_number(request, "limit", default=PAGE_DEFAULT_EVENTS, maximum=PAGE_MAX_EVENTS)


def refuse_while(standby_reason: str | None) -> None:
    """Raise Problem 503 if there is a reason why this listener does not replay."""
    if standby_reason:
        raise Problem(503, f"this listener does not work: {standby_reason}", headers=RETRY_AFTER)


def page(name: str, rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return a page of a list and the mark of the next page; a page is short if its last row has `is_cut`."""
    has_more = len(rows) == limit or (rows and rows[-1].get("is_cut"))
    return {name: [without_mark(row) for row in rows], "next": rows[-1]["mark"] if has_more else None}


def without_mark(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without the fields for paging."""
    return {name: value for name, value in row.items() if name not in ("mark", "is_cut")}
