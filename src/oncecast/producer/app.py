"""The producer's HTTP face: publishing, reading back, health, the page; and the WebSocket at `/`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from oncecast.core.errors import JournalCorrupt, JournalFull, JournalUnavailable
from oncecast.core.event import DEFAULT_SOURCE, Cursor
from oncecast.core.facts import Accepted, Observe, Refused
from oncecast.core.ports import Journal
from oncecast.core.wire import SUBPROTOCOL, epoch_of
from oncecast.http.problems import Problem, json_response, on_http_error, on_problem
from oncecast.producer.clients import ClientHub
from oncecast.producer.ingest import Bare, read_publication
from oncecast.producer.listeners import ListenerHub, start_after
from oncecast.producer.ring import Ring

BODY_DEADLINE_S = 60.0
RETRY_AFTER_S = 1
PAGE_MAX_EVENTS = 1_000
PAGE_MAX_BYTES = 4 * 1024 * 1024
_decode_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """Plain values; see the table of settings for what each means."""

    instance: str
    source: str = DEFAULT_SOURCE
    event_max_bytes: int = 1024 * 1024
    request_max_bytes: int = 16 * 1024 * 1024
    ring_max_bytes: int = 32 * 1024 * 1024


class Producer:
    """Accepts events, journals them, and broadcasts them. `app` is its ASGI application."""

    def __init__(
        self, journal: Journal, settings: ProducerSettings, *, metrics: Callable[[], bytes], observe: Observe
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._metrics = metrics
        self._observe = observe
        self._ring = Ring(journal, settings.ring_max_bytes)
        self._listeners = ListenerHub(journal, self._ring, observe)
        self._clients = ClientHub(journal, self._ring, self._publish_frame, observe)
        self.app: ASGIApp = self._routes()

    def _routes(self) -> Starlette:
        web = resources.files("oncecast").joinpath("web")
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                WebSocketRoute("/", self._socket),
                Route("/events", _PostOrGet(self._post, self._get_events)),
                Route("/api/status", self._status, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/livez", self._live, methods=["GET"]),
                Route("/readyz", self._live, methods=["GET"]),
                Route("/metrics", self._metrics_text, methods=["GET"]),
                Mount("/web", StaticFiles(directory=str(web))),
            ],
            exception_handlers={Problem: on_problem, HTTPException: on_http_error},
        )

    # --- publishing ----------------------------------------------------------------------------------------

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /events`; plain ASGI, since this is the hot path."""
        try:
            request = Request(scope)
            body = await self._body(request, receive)
            answer = await self._publish(body, request.headers.get("content-type", ""), self._bare(request))
        except Problem as problem:
            self._observe(Refused(problem.status, problem.detail))
            await problem.response()(scope, receive, send)
        else:
            await json_response(answer, 202)(scope, receive, send)

    async def _body(self, request: Request, receive: Receive) -> bytes:
        limit = self._settings.request_max_bytes
        too_large = Problem(413, f"a request may have {limit} bytes; send the events in several")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "compressed bodies are not taken")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        chunks, size_bytes = [], 0
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the request ended before its body did")
                    chunks.append(message.get("body", b""))
                    size_bytes += len(chunks[-1])
                    if size_bytes > limit:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise Problem(408, f"the body did not come within {BODY_DEADLINE_S:.0f} s") from None

    def _bare(self, request: Request) -> Bare:
        if not request.url.query and "idempotency-key" not in request.headers:
            return Bare(source=self._settings.source)
        query = request.query_params
        return Bare(
            source=query.get("source", self._settings.source),
            type=query.get("type"),
            subject=query.get("subject"),
            idempotency_key=request.headers.get("idempotency-key"),
        )

    async def _publish_frame(self, body: bytes) -> dict[str, object]:
        try:
            return await self._publish(body, "application/json", Bare(source=self._settings.source))
        except Problem as problem:
            self._observe(Refused(problem.status, problem.detail))
            raise

    async def _publish(self, body: bytes, content_type: str, bare: Bare) -> dict[str, object]:
        """Validate, journal, and say so: the ids, and their cursors."""
        publication = read_publication(body, content_type, bare, event_max_bytes=self._settings.event_max_bytes)
        started_s = time.monotonic()
        try:
            first = await self._journal.append(publication.events)
        except JournalFull as error:
            raise Problem(507, f"{error}; nothing was accepted", headers=_retry_after()) from None
        except JournalUnavailable as error:
            raise Problem(503, f"{error}; nothing was acknowledged", headers=_retry_after()) from None
        identities = publication.identities
        self._observe(
            Accepted(len(identities), identities[0][1], identities[-1][1], len(body), time.monotonic() - started_s)
        )
        epoch = epoch_of(self._journal.epochs, first)
        return {
            "accepted": len(identities),
            "events": [
                {"id": id_, "source": source, "cursor": f"{epoch}:{offset}"}
                for offset, (source, id_) in enumerate(identities, first)
            ],
        }

    # --- reading -------------------------------------------------------------------------------------------

    async def _get_events(self, request: Request) -> Response:
        """`GET /events?after=&limit=`: from the journal, in order."""
        limit = _number(request.query_params.get("limit", "100"), "limit", PAGE_MAX_EVENTS)
        try:
            after = request.query_params.get("after")
            offset = start_after(self._journal, Cursor.parse(after)) if after else self._journal.first - 1
        except ValueError as error:
            raise Problem(400, f"after: {error}") from None
        events: list[msgspec.Raw] = []
        try:
            batches = await self._journal.read(offset, PAGE_MAX_BYTES) if offset < self._journal.last else []
        except JournalCorrupt as error:
            raise Problem(500, str(error)) from None
        except (JournalUnavailable, TimeoutError) as error:
            raise Problem(503, str(error) or "the disk is slow", headers=_retry_after()) from None
        for batch in batches:
            events += _decode_events(batch.body)[max(0, offset + 1 - batch.first_offset) :]
            offset = batch.last_offset
        surplus = max(0, len(events) - limit)
        last = offset - surplus
        cursor = Cursor(epoch_of(self._journal.epochs, max(1, last)), last)
        return json_response({"events": events[:limit], "next": str(cursor)})

    async def _socket(self, socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols", ())
        if SUBPROTOCOL in offered:
            await self._listeners.serve(socket)
        else:
            await self._clients.serve(socket)

    # --- how it is doing -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `/health` and the page show."""
        journal = self._journal
        return {
            "status": "ok",
            "instance": self._settings.instance,
            "journal": {
                "name": journal.name,
                "epoch": journal.epochs[-1].epoch,
                "first": journal.first,
                "last": journal.last,
            },
            "subscribers": self._clients.count,
            "listeners": self._listeners.status(),
        }

    async def _status(self, _request: Request) -> Response:
        return json_response(self.status())

    async def _health(self, _request: Request) -> Response:
        return json_response(self.status())

    async def _live(self, _request: Request) -> Response:
        return json_response({"status": "ok"})

    async def _metrics_text(self, _request: Request) -> Response:
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _page(self, _request: Request) -> Response:
        page = resources.files("oncecast").joinpath("web/index.html").read_bytes()
        return Response(page, media_type="text/html; charset=utf-8")


class _PostOrGet:
    """An ASGI application for `/events`: POST without a request object's detours, GET as usual."""

    def __init__(self, post: ASGIApp, get: Callable[[Request], Any]) -> None:
        self._post = post
        self._get = get

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            response = await self._get(Request(scope, receive))
            await response(scope, receive, send)
        else:
            raise HTTPException(405, headers={"Allow": "GET, HEAD, POST"})


def _number(text: str, name: str, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= maximum):
        raise Problem(400, f"{name} is a whole number from 1 to {maximum}")
    return int(text)


def _retry_after() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}
