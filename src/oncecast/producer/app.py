"""The producer's ASGI application: publishing, reading back, health, the page, and the WebSocket at `/`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from oncecast.core.clock import Clock, utc_now
from oncecast.core.errors import JournalCorrupt, JournalUnavailable
from oncecast.core.event import DEFAULT_SOURCE, Cursor
from oncecast.core.health import FINE, PROCESS, Board, Finding, Health, Status
from oncecast.core.journal import JournalBatch
from oncecast.core.ports import Journal
from oncecast.core.telemetry import OperatorActed, Record
from oncecast.core.wire import SUBPROTOCOL, epoch_of
from oncecast.http.liveness import liveness
from oncecast.http.openapi import document_routes
from oncecast.http.params import client_of
from oncecast.http.problems import Problem, json_response, on_http_error, on_problem, refuse_handshake
from oncecast.http.tokens import Right
from oncecast.producer.api_document import ProducerStatus, producer_document, websocket_document
from oncecast.producer.broadcast.listeners import ListenerHub
from oncecast.producer.broadcast.pages import PageLimits, Pages, fitting
from oncecast.producer.broadcast.reading import ReadBudget
from oncecast.producer.broadcast.ring import Ring
from oncecast.producer.broadcast.session import SocketLimits, start_after
from oncecast.producer.broadcast.subscribers import ClientHub
from oncecast.producer.intake import RETRY_AFTER, Intake, IntakeLimits
from oncecast.producer.relay import Relay
from oncecast.producer.retention import Retention, RetentionLimits
from oncecast.tasks import Essentials, LastResort

EVENTS_PATH = "/events"
API = "/api/"
PAGE_MAX_EVENTS = 1_000
REQUEST_S = 0.001
"""The cost of a page in addition to its events."""
_decode_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """The settings of a producer; see the table of settings."""

    instance: str
    drain_timeout_s: float = 10.0
    source: str = DEFAULT_SOURCE
    ring_max_bytes: int = 32 * 1024 * 1024
    intake: IntakeLimits = field(default_factory=IntakeLimits)
    pages: PageLimits = field(default_factory=PageLimits)
    sockets: SocketLimits = field(default_factory=SocketLimits)
    retention: RetentionLimits = field(default_factory=RetentionLimits)


def right_for(scope: Scope) -> Right | None:
    """Return the right that a request needs; the page and health need none."""
    if scope["type"] == "websocket":
        return "subscribe"
    path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
    if path == EVENTS_PATH:
        return "subscribe" if reads else "publish"
    if path.startswith(API):
        return "subscribe" if reads else "admin"
    return None


class Producer:
    """Accepts events, journals them, and broadcasts them. `app` is its ASGI application."""

    def __init__(
        self,
        journal: Journal,
        settings: ProducerSettings,
        clock: Clock,
        *,
        metrics: Callable[[], bytes],
        record: Record,
        last_resort: LastResort | None = None,
    ) -> None:
        self._journal = journal
        self._record = record
        self._settings = settings
        self._essentials = Essentials(clock, end_within_s=settings.drain_timeout_s, last_resort=last_resort)
        self._metrics = metrics
        self._ring = Ring(journal, settings.ring_max_bytes)
        self._budget = ReadBudget(clock)
        self._event_pages = Pages(settings.pages)
        self._listeners = ListenerHub(journal, self._ring, self._budget, clock, settings.sockets, record)
        self.retention = Retention(journal, self._listeners, clock, settings.retention, record)
        self._intake = Intake(
            journal,
            clock,
            record,
            source=settings.source,
            limits=settings.intake,
            check_room=self.retention.check_room,
            budget=self._budget,
        )
        self._clients = ClientHub(
            journal, self._ring, self._budget, self._intake.publishing, settings.sockets, record
        )
        self.stop: asyncio.Event | None = None
        """Set when the producer must drain."""
        essential = {PROCESS: self._find_process, "journal": self.retention.find_journal}
        others = {"listeners": self._listeners.find_listeners, "groups": self.retention.find_groups}
        self._board = Board({**essential, **others}, essential=essential, now=lambda: utc_now(clock))
        self._relay = Relay(self._listeners, self.retention.knows)

    async def run(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve until `serving` has ended; raises the error of an essential task that ends earlier."""

        async def serve() -> None:
            await serving
            await self._essentials.end([retention, broadcast])

        broadcast = self._essentials.start(self._clients.broadcast_loop(), "broadcast")
        retention = self._essentials.start(self.retention.run(), "retention")
        await self._essentials.run(serve())

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as an ASGI application. Publishing and WebSockets bypass the router for speed."""
        if scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
        elif scope["path"] == EVENTS_PATH and scope["method"] == "POST":
            await self._intake(scope, receive, send)
        else:
            await self.pages(scope, receive, send)

    @cached_property
    def pages(self) -> Starlette:
        """The routes except for publishing and the WebSocket."""
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route(EVENTS_PATH, self._get_events, methods=["GET", "POST"]),
                Route("/api/status", self._status, methods=["GET"]),
                Route("/api/journal", self._journal_status, methods=["GET"]),
                Route("/api/groups", self._groups, methods=["GET"]),
                Route("/api/groups/{name:path}", self._forget, methods=["DELETE"]),
                Route("/api/listeners/{group}/{instance:path}", self._dismiss, methods=["DELETE"]),
                *self._relay.routes(),
                Route("/health", self._health, methods=["GET"]),
                Route("/livez", self._live, methods=["GET"]),
                Route("/readyz", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics_text, methods=["GET"]),
                *document_routes(openapi=producer_document(right_for), asyncapi=websocket_document()),
            ],
            exception_handlers={Problem: on_problem, HTTPException: on_http_error},
        )

    # --- reading -------------------------------------------------------------------------------------------

    async def _get_events(self, request: Request) -> Response:
        """Answer `GET /events?after=&limit=` from the journal, in order."""
        limit = _number(request.query_params.get("limit", "100"), "limit", PAGE_MAX_EVENTS)
        try:
            after = request.query_params.get("after")
            offset = start_after(self._journal, Cursor.parse(after)) if after is not None else self._journal.first - 1
        except ValueError as error:
            raise Problem(400, f"invalid after: {error}") from None
        with self._event_pages.reserved() as max_bytes:
            batches = await self._batches(offset, max_bytes, limit)
            events, last = await self._page_of(batches, offset, limit, max_bytes)
            cursor = Cursor(epoch_of(self._journal.epochs, max(1, last)), last)
            return self._event_pages.answer(msgspec.json.encode({"events": events, "next": str(cursor)}))

    async def _batches(self, offset: int, max_bytes: int, limit: int) -> Sequence[JournalBatch]:
        if offset >= self._journal.last:
            return []
        try:
            return await self._journal.read(offset, max_bytes, limit)
        except JournalCorrupt as error:
            raise Problem(500, str(error)) from None
        except (JournalUnavailable, TimeoutError) as error:
            raise Problem(
                503, str(error) or "the disk of the journal does not respond", headers=RETRY_AFTER
            ) from None

    async def _page_of(
        self, batches: Sequence[JournalBatch], offset: int, limit: int, max_bytes: int
    ) -> tuple[list[msgspec.Raw], int]:
        """Return the first events after `offset`, at least one, within both limits, and the last offset."""
        events: list[msgspec.Raw] = []
        last = offset
        for batch in batches:
            begun_s = self._budget.monotonic_s()
            skip = max(0, offset + 1 - batch.first_offset)
            found = _decode_events(batch.body)[skip : skip + limit - len(events)]
            count = max(fitting(found, max_bytes), not events and len(found) > 0)
            max_bytes -= sum(map(len, found[:count]))
            events += found[:count]
            last = batch.last_offset if batch.is_gap else batch.first_offset + skip + count - 1
            await self._budget.spend(self._budget.monotonic_s() - begun_s)
            if count < len(found):
                break
        await self._budget.spend(REQUEST_S)
        return events, last

    async def _socket(self, socket: WebSocket) -> None:
        if socket.scope["path"] != "/":
            reason = f"the WebSocket of this producer is at /, not at {socket.scope['path'][:80]!r}"
            await refuse_handshake(socket.scope, Problem(403, reason), socket.send)
        elif SUBPROTOCOL in socket.scope["subprotocols"]:
            await self._listeners.serve(socket)
        else:
            await self._clients.serve(socket)

    # --- health and status---------------------------------------------------------------------------------

    def look(self) -> Health:
        """Return the current health."""
        return self._board.check()

    def _find_process(self) -> Finding:
        if self.stop is not None and self.stop.is_set():
            return Finding(Status.DRAINING, "it is stopping: requests in progress finish first")
        return FINE

    def subscribers(self) -> dict[tuple[str, ...], float]:
        """Return the number of connected readers, by kind."""
        return {("listener",): float(len(self._listeners.readers)), ("client",): float(self._clients.count)}

    def status(self) -> ProducerStatus:
        """Return the status that `/health` and the page show."""
        return ProducerStatus(
            instance=self._settings.instance,
            journal=self.retention.journal_status(),
            subscribers=self._clients.count,
            listeners=self._listeners.status(),
            gone=self._listeners.gone_status(),
            groups=self.retention.groups_status(),
            **msgspec.structs.asdict(self.look()),
        )

    async def _status(self, _request: Request) -> Response:
        return json_response(self.status())

    async def _journal_status(self, _request: Request) -> Response:
        return json_response(self.retention.journal_status())

    async def _groups(self, _request: Request) -> Response:
        return json_response({"groups": self.retention.groups_status()})

    async def _forget(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            await self.retention.forget(name)
        except JournalUnavailable as error:
            raise Problem(503, str(error), headers=RETRY_AFTER) from None
        self._record(OperatorActed(f"forget the group {name}", 1, client_of(request)))
        return json_response({"forgotten": name})

    async def _dismiss(self, request: Request) -> Response:
        group, instance = request.path_params["group"], request.path_params["instance"]
        if not self._listeners.gone.dismiss((group, instance)):
            raise Problem(404, f"no listener {instance[:64]!r} of the group {group[:40]!r} has gone")
        self._record(OperatorActed(f"dismiss the listener {instance} of {group}", 1, client_of(request)))
        return json_response({"dismissed": instance})

    async def _health(self, _request: Request) -> Response:
        status = self.status()
        listeners, gone = (
            [msgspec.structs.replace(each, failures=msgspec.UNSET) for each in listed]
            for listed in (status.listeners, status.gone)
        )
        return json_response(msgspec.structs.replace(status, listeners=listeners, gone=gone))

    async def _ready(self, request: Request) -> Response:
        answer = await self._health(request)
        answer.status_code = 200 if self.look().status.is_ready else 503
        return answer

    async def _live(self, _request: Request) -> Response:
        return liveness(self._essentials)

    async def _metrics_text(self, _request: Request) -> Response:
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _page(self, _request: Request) -> Response:
        page = resources.files("oncecast").joinpath("web/index.html").read_bytes()
        return Response(page, media_type="text/html; charset=utf-8")


def _number(text: str, name: str, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
        raise Problem(400, f"invalid {name}: expected a whole number from 1 to {maximum}")
    return int(text)
