"""Operators' requests about a group, which the producer relays to one of the group's connected listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from oncecast.core.wire import Ask
from oncecast.http.params import body
from oncecast.http.problems import PROBLEM_TYPE, Problem
from oncecast.producer.broadcast.listeners import ListenerHub, ListenerReader

EVENTS_PATH = "/api/events"
RETRYING_PATH = "/api/retrying"
PATH = "/api/dead-letters"
CAUSES_PATH = "/api/dead-letter-causes"
CHANGES = ("replay", "discard", "restore", "reset")
CONFLICTS_PATH = "/api/conflicts"
CONFLICT_CHANGES = ("replay", "discard", "restore")
ANSWER_DEADLINE_S = 120.0
RETRY_AFTER = {"Retry-After": "2"}


class Relay:
    """The routes about ended events, dead letters and conflicts, answered by a connected listener of a group.

    `is_known` returns whether there is a group of this name.
    """

    def __init__(self, hub: ListenerHub, is_known: Callable[[str], bool]) -> None:
        self._hub = hub
        self._is_known = is_known
        self._ids = count(1)

    def routes(self) -> list[Route]:
        """Return the routes for the producer's application."""
        return [
            Route(EVENTS_PATH, self._relay, methods=["GET"]),
            Route(f"{EVENTS_PATH}/{{id:path}}", self._relay, methods=["GET"]),
            Route(RETRYING_PATH, self._relay, methods=["GET"]),
            Route(PATH, self._relay, methods=["GET"]),
            Route(CAUSES_PATH, self._relay, methods=["GET"]),
            *(Route(f"{PATH}/{change}", self._relay, methods=["POST"]) for change in CHANGES),
            Route(f"{PATH}/{{id:path}}", self._relay, methods=["GET", "PUT"]),
            Route(CONFLICTS_PATH, self._relay, methods=["GET"]),
            *(Route(f"{CONFLICTS_PATH}/{change}", self._relay, methods=["POST"]) for change in CONFLICT_CHANGES),
            Route(f"{CONFLICTS_PATH}/{{cursor}}", self._relay, methods=["GET"]),
        ]

    async def _relay(self, request: Request) -> Response:
        reader = self._choose(request.query_params.get("group"))
        try:
            text = (await body(request)).decode()
        except UnicodeDecodeError:
            raise Problem(400, "the body is not UTF-8") from None
        path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1")
        ask = Ask(id=next(self._ids), method=request.method, path=path, query=request.url.query, body=text)
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                answer = await reader.ask(ask)
        except (TimeoutError, ConnectionError):
            reason = f"{reader.instance} did not answer; the outcome is unknown, and a retry is safe"
            raise Problem(504, reason) from None
        content_type = "application/json" if answer.status < 400 else PROBLEM_TYPE
        headers = RETRY_AFTER if answer.status == 503 else None
        return Response(answer.body, answer.status, headers, content_type)

    def _choose(self, group: str | None) -> ListenerReader:
        """Return a connected listener of `group`, or of the only group; raises Problem."""
        readers = [reader for reader in self._hub.readers if reader.group and group in (None, reader.group)]
        if not readers and group is not None and not self._is_known(group):
            raise Problem(404, f"there is no group {group[:40]!r}")
        if not readers:
            raise Problem(503, f"no listener{f' of {group!r}' if group else ''} is connected", headers=RETRY_AFTER)
        if len({reader.group for reader in readers}) > 1:
            raise Problem(400, "there are several groups: name one with ?group=")
        return min(readers, key=lambda reader: (not reader.health.status.is_ready, -reader.reported_at_s))
