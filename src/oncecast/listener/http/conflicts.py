"""Routes about conflicts, for operators: list, show, replay under a new id, discard, restore."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.conflicts import Conflicts, ConflictState
from oncecast.core.event import IDENTITY_MAX_BYTES, Cursor
from oncecast.core.telemetry import ConflictsDiscarded, Record, TelemetryEvent
from oncecast.event import new_id
from oncecast.http.operator_api import (
    ConflictChangeRequest,
    ConflictReplayRequest,
    ConflictReplayResult,
    ConflictUnchanged,
)
from oncecast.http.params import struct, texts
from oncecast.http.problems import Problem, json_response
from oncecast.listener.dead_letters.replay import CONFLICT_NOT_OPEN, Replay, Replays
from oncecast.listener.http.app import limit_of, page, refuse_while, route

PATH = "/api/conflicts"
NOT_DISCARDED = "it is not discarded"
_STATES = get_args(ConflictState)


ConflictChange = Callable[[Sequence[Cursor]], Awaitable[set[Cursor]]]


def conflicts_routes(
    conflicts: Conflicts, replays: Replays, *, standby_reason: Callable[[], str | None], record: Record
) -> list[BaseRoute]:
    """Return the routes about conflicts; replays are refused while `standby_reason()` returns one."""

    async def listing(request: Request) -> Response:
        """`GET /api/conflicts?limit=&after=&state=&source=&id=`."""
        limit = limit_of(request)
        state: Any = request.query_params.get("state", "open")
        if state not in _STATES:
            raise Problem(400, f"state is {', '.join(_STATES[:-1])} or {_STATES[-1]}")
        named = texts(request, ("source", "id"))
        rows = await conflicts.newest(limit=limit, state=state, after=request.query_params.get("after"), **named)
        return json_response(page("conflicts", rows, limit))

    async def one(request: Request) -> Response:
        """`GET /api/conflicts/{cursor}`."""
        found = await conflicts.get(_place(request.path_params["cursor"], 404))
        if found is None:
            raise Problem(404, "there is no such conflict")
        return json_response(found)

    async def replay(request: Request) -> Response:
        """`POST /api/conflicts/replay`: replay one after another; each succeeds or fails on its own."""
        refuse_while(standby_reason())
        body = await struct(request, ConflictReplayRequest)
        named = [(_place(one.cursor), new_id() if one.id is None else _checked(one.id)) for one in body.conflicts]
        results = []
        for place, id_ in named:
            result = await replays.replay_conflict(conflicts, place, id_)
            outcome = "not_open" if result.outcome is Replay.NOT_DEAD else result.outcome.value
            results.append(ConflictReplayResult(str(place), id_, outcome, result.error))
        return json_response({"results": results})

    def changing(change: ConflictChange, reason: str, telemetry: Callable[[int], TelemetryEvent] | None) -> Any:
        async def answer(request: Request) -> Response:
            places = list(dict.fromkeys(map(_place, (await struct(request, ConflictChangeRequest)).cursors)))
            done = await change(places)
            if done and telemetry is not None:
                record(telemetry(len(done)))
            not_done = [ConflictUnchanged(str(place), reason) for place in places if place not in done]
            return json_response({"done": len(done), "not_done": not_done})

        return answer

    return [
        route(PATH, listing),
        route(f"{PATH}/replay", replay, "POST"),
        route(f"{PATH}/discard", changing(conflicts.discard, CONFLICT_NOT_OPEN, ConflictsDiscarded), "POST"),
        route(f"{PATH}/restore", changing(conflicts.restore, NOT_DISCARDED, None), "POST"),
        route(f"{PATH}/{{cursor}}", one),
    ]


def _place(text: str, status: int = 422) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError as error:
        raise Problem(status, str(error)) from None


def _checked(id_: str) -> str:
    if not 0 < len(id_.encode()) <= IDENTITY_MAX_BYTES or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in id_):
        raise Problem(422, f"an id has 1 to {IDENTITY_MAX_BYTES} bytes, and no control characters")
    return id_
