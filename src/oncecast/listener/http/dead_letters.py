"""Routes about dead letters, for operators: list, count by cause, show, edit; see also `dead_letter_changes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import Cause, DeadLetters
from oncecast.core.dead_letters import Identity
from oncecast.core.telemetry import OperatorActed, Record
from oncecast.http.params import body, client_of, texts, whole_number
from oncecast.http.problems import Problem, json_response
from oncecast.listener.dead_letters.replay import Replays
from oncecast.listener.http.app import PAGE_DEFAULT_EVENTS, PAGE_MAX_EVENTS, page, route, without_mark
from oncecast.listener.http.dead_letter_changes import changing_routes
from oncecast.listener.http.selection import flag, not_dead, resolve, selection_of

PATH = "/api/dead-letters"
CAUSES_PATH = "/api/dead-letter-causes"
WHOLE_MAX_BYTES = 256 * 1024
"""A page of whole dead letters ends here: as JSON it may be twice as long, and a producer relays at most 1 MiB."""


def dead_letter_routes(
    dead_letters: DeadLetters,
    replays: Replays,
    clock: Clock,
    *,
    standby_reason: Callable[[], str | None],
    record: Record,
) -> list[BaseRoute]:
    """Return the routes about dead letters; replays are refused while `standby_reason()` returns one."""

    async def listing(request: Request) -> Response:
        """`GET /api/dead-letters?limit=&after=&whole=`, and the query of a selection."""
        limit = whole_number(request, "limit", default=PAGE_DEFAULT_EVENTS, maximum=PAGE_MAX_EVENTS)
        after = request.query_params.get("after")
        selection = selection_of(request, clock)
        if not flag(request, "whole"):
            return json_response(
                page("dead_letters", await dead_letters.newest(selection, limit=limit, after=after), limit)
            )
        rows, has_more = await dead_letters.read(selection, limit=limit, after=after, max_bytes=WHOLE_MAX_BYTES)
        mark = rows[-1]["mark"] if has_more else None
        return json_response({"dead_letters": [without_mark(row) for row in rows], "next": mark})

    async def causes(request: Request) -> Response:
        """`GET /api/dead-letter-causes?limit=`, and the query of a selection."""
        limit = whole_number(request, "limit", default=PAGE_DEFAULT_EVENTS, maximum=PAGE_MAX_EVENTS)
        found = await dead_letters.causes(selection_of(request, clock), limit=limit)
        return json_response(
            {
                "dead_letters": found.dead_letters,
                "causes": [_cause(cause) for cause in found.largest],
                "left_out": found.causes - len(found.largest),
            }
        )

    async def one(request: Request) -> Response:
        """`GET` or `PUT /api/dead-letters/{id}?source=`."""
        if request.method == "PUT":
            return await edit(request)
        return json_response(await found(await identity(request)))

    async def edit(request: Request) -> Response:
        """Store the body, which is JSON, as the edited data."""
        data = await body(request)
        try:
            data.decode()
            msgspec.json.decode(data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the edited data is not JSON: {error}") from None
        dead_letter = await identity(request)
        if not await dead_letters.edit(*dead_letter, data):
            if (await found(dead_letter))["discarded_at"] is not None:
                raise Problem(409, f"{dead_letter.id[:100]!r} was discarded: restore it first")
            raise not_dead(dead_letter.id)
        record(OperatorActed(f"edit the dead letter {dead_letter.id}", 1, client_of(request)))
        return json_response(await found(dead_letter))

    async def identity(request: Request) -> Identity:
        return await resolve(dead_letters, request.path_params["id"], texts(request, ("source",))["source"])

    async def found(dead_letter: Identity) -> dict[str, Any]:
        whole = await dead_letters.get(*dead_letter)
        if whole is None:
            raise not_dead(dead_letter.id)
        return whole

    return [
        route(PATH, listing),
        route(CAUSES_PATH, causes),
        *changing_routes(dead_letters, replays, clock, PATH, standby_reason=standby_reason, record=record),
        route(f"{PATH}/{{id:path}}", one, "GET", "PUT"),
    ]


def _cause(cause: Cause) -> dict[str, Any]:
    return {**dataclasses.asdict(cause), "example": cause.example._asdict()}
