"""Routes about conflicts, for operators: list, show, replay under a new id, discard, restore."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.conflicts import Conflicts, ConflictState
from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.errors import NoThread, RowLocked, Unavailable
from oncecast.core.event import IDENTITY_MAX_BYTES, Cursor
from oncecast.core.telemetry import ConflictReplayed, ConflictReplayFailed, ConflictsDiscarded, Record, TelemetryEvent
from oncecast.event import new_id
from oncecast.http.params import struct, texts, whole_number
from oncecast.http.problems import Problem, json_response
from oncecast.listener.dead_letters.replay import Replay, ReplayResult, Replays
from oncecast.listener.http.app import PAGE_DEFAULT_EVENTS, PAGE_MAX_EVENTS, RETRY_AFTER, page, route

PATH = "/api/conflicts"
REPLAY_MAX = 100
CHANGE_MAX = 1_000
NOT_OPEN = "there is no such conflict, or it was replayed or discarded"
NOT_DISCARDED = "it is not discarded"
_STATES = get_args(ConflictState)


class NamedConflicts(msgspec.Struct, forbid_unknown_fields=True):
    """A conflict by its cursor, and the id for its event; None draws a new id."""

    cursor: str
    id: str | None = None


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a replay request; conflicts are replayed in this order."""

    conflicts: Annotated[list[NamedConflicts], msgspec.Meta(min_length=1, max_length=REPLAY_MAX)]


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a discard or restore request."""

    cursors: Annotated[list[str], msgspec.Meta(min_length=1, max_length=CHANGE_MAX)]


ConflictChange = Callable[[Sequence[Cursor]], Awaitable[set[Cursor]]]


def conflicts_routes(
    conflicts: Conflicts, replays: Replays, *, standby_reason: Callable[[], str | None], record: Record
) -> list[BaseRoute]:
    """Return the routes about conflicts; replays are refused while `standby_reason()` returns one."""

    async def listing(request: Request) -> Response:
        """`GET /api/conflicts?limit=&after=&state=&source=&id=`."""
        limit = whole_number(request, "limit", default=PAGE_DEFAULT_EVENTS, maximum=PAGE_MAX_EVENTS)
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
        if reason := standby_reason():
            raise Problem(503, f"this listener does not work: {reason}", headers=RETRY_AFTER)
        body = await struct(request, ReplayBody)
        named = [(_place(one.cursor), new_id() if one.id is None else _checked(one.id)) for one in body.conflicts]
        results = []
        for place, id_ in named:
            result = await _replay(conflicts, replays, place, id_, record)
            outcome = "not_open" if result.outcome is Replay.NOT_DEAD else result.outcome.value
            results.append({"cursor": str(place), "id": id_, "outcome": outcome, "error": result.error})
        return json_response({"results": results})

    def changing(change: ConflictChange, reason: str, telemetry: Callable[[int], TelemetryEvent] | None) -> Any:
        async def answer(request: Request) -> Response:
            places = list(dict.fromkeys(map(_place, (await struct(request, ChangeBody)).cursors)))
            done = await change(places)
            if done and telemetry is not None:
                record(telemetry(len(done)))
            not_done = [{"cursor": str(place), "error": reason} for place in places if place not in done]
            return json_response({"done": len(done), "not_done": not_done})

        return answer

    return [
        route(PATH, listing),
        route(f"{PATH}/replay", replay, "POST"),
        route(f"{PATH}/discard", changing(conflicts.discard, NOT_OPEN, ConflictsDiscarded), "POST"),
        route(f"{PATH}/restore", changing(conflicts.restore, NOT_DISCARDED, None), "POST"),
        route(f"{PATH}/{{cursor}}", one),
    ]


async def _replay(conflicts: Conflicts, replays: Replays, place: Cursor, id_: str, record: Record) -> ReplayResult:
    async def attempt(work: ReplayWork) -> ReplayResult:
        try:
            stored = await conflicts.replay(place, id_, work)
        except (Unavailable, RowLocked, NoThread):
            raise
        except Exception as error:  # of a handler or the data, or the id is in use: the conflict stays open
            reason = f"{type(error).__name__}: {error}"
            record(ConflictReplayFailed(str(place), reason))
            return ReplayResult(Replay.FAILED, reason)
        if not stored:
            return ReplayResult(Replay.NOT_DEAD, NOT_OPEN)
        record(ConflictReplayed(id_, str(place)))
        return ReplayResult(Replay.STORED)

    return await replays.run(attempt)


def _place(text: str, status: int = 422) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError as error:
        raise Problem(status, str(error)) from None


def _checked(id_: str) -> str:
    if not 0 < len(id_.encode()) <= IDENTITY_MAX_BYTES or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in id_):
        raise Problem(422, f"an id has 1 to {IDENTITY_MAX_BYTES} bytes, and no control characters")
    return id_
