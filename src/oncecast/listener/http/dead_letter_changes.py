"""Routes that change several dead letters: replay, discard, restore, reset; a request has a maximum of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.clock import Clock, utc_now
from oncecast.core.dead_letter_ports import DeadLetters
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.telemetry import DeadLettersDiscarded, OperatorActed, Record, Restored, TelemetryEvent
from oncecast.http.params import client_of, struct
from oncecast.http.problems import Problem, json_response
from oncecast.listener.dead_letters.replay import Replays
from oncecast.listener.http.app import RETRY_AFTER, route
from oncecast.listener.http.selection import resolve

REPLAY_MAX_EVENTS = 100
REPLAY_DEFAULT_EVENTS = 10
CHANGE_MAX_EVENTS = 1_000
CHANGE_DEFAULT_EVENTS = 100
NOT_THERE = "it is not dead (any more), or is being replayed just now"
NOT_DISCARDED = "it is not discarded"


class NamedDeadLetters(msgspec.Struct, forbid_unknown_fields=True):
    """A dead letter by its id, and by its source where several sources have that id."""

    id: str
    source: str | None = None


class Chosen(msgspec.Struct, forbid_unknown_fields=True):
    """The body: `events` by name; or `select`, with up to `limit` of the selected dead letters, newest first, behind
    the mark `after`."""

    events: Annotated[list[NamedDeadLetters], msgspec.Meta(min_length=1, max_length=CHANGE_MAX_EVENTS)] | None = None
    select: Selection | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=CHANGE_MAX_EVENTS)] | None = None
    after: str | None = None


class ChangeFailure(NamedTuple):
    """Why a dead letter was not changed."""

    id: str
    source: str | None
    error: str


class ChangeRequest(NamedTuple):
    """The dead letters of a request; `next` is the mark of the next page of a selection."""

    dead_letters: list[Identity]
    unknown: list[ChangeFailure]
    next: str | None


DeadLetterChange = Callable[[Sequence[Identity]], Awaitable[set[Identity]]]


def changing_routes(
    dead_letters: DeadLetters,
    replays: Replays,
    clock: Clock,
    path: str,
    *,
    standby_reason: Callable[[], str | None],
    record: Record,
) -> list[BaseRoute]:
    """Return the routes under `path`; replays are refused while `standby_reason()` returns one."""

    async def replay(request: Request) -> Response:
        """`POST …/replay`: replay one after another; each succeeds or fails on its own."""
        if reason := standby_reason():
            raise Problem(503, f"this listener does not work: {reason}", headers=RETRY_AFTER)
        batch = await chosen(request, default=REPLAY_DEFAULT_EVENTS, maximum=REPLAY_MAX_EVENTS)
        results = [
            {"id": id_, "source": source, "outcome": "not_dead", "error": error}
            for id_, source, error in batch.unknown
        ]
        for source, id_ in batch.dead_letters:
            result = await replays.replay(source, id_)
            results.append({"id": id_, "source": source, "outcome": result.outcome.value, "error": result.error})
        record(OperatorActed("replay dead letters", len(batch.dead_letters), client_of(request)))
        return json_response({"results": results, "next": batch.next})

    def changing(
        change: DeadLetterChange, telemetry: Callable[[int], TelemetryEvent] | None, *, discarded: bool = False
    ) -> Any:
        async def answer(request: Request) -> Response:
            batch = await chosen(
                request, default=CHANGE_DEFAULT_EVENTS, maximum=CHANGE_MAX_EVENTS, discarded=discarded
            )
            done = await change(batch.dead_letters) if batch.dead_letters else set()
            if done and telemetry is not None:
                record(telemetry(len(done)))
            verb = request.url.path.rpartition("/")[2]
            record(OperatorActed(f"{verb} dead letters", len(done), client_of(request)))
            reason = NOT_DISCARDED if discarded else NOT_THERE
            others = [
                ChangeFailure(x.id, x.source, reason) for x in dict.fromkeys(batch.dead_letters) if x not in done
            ]
            not_done = [failure._asdict() for failure in [*batch.unknown, *others]]
            return json_response({"done": len(done), "not_done": not_done, "next": batch.next})

        return answer

    async def chosen(request: Request, *, default: int, maximum: int, discarded: bool = False) -> ChangeRequest:
        asked = await struct(request, Chosen)
        if (asked.events is None) == (asked.select is None):
            raise Problem(422, "the body: it has either `events` or `select`")
        if asked.events is not None:
            if asked.limit is not None or asked.after is not None:
                raise Problem(422, "the body: `limit` and `after` go with `select`")
            if len(asked.events) > maximum:
                raise Problem(422, f"the body: at most {maximum} events at once")
            return await named(asked.events)
        limit = default if asked.limit is None else asked.limit
        if limit > maximum:
            raise Problem(422, f"the body: `limit` is at most {maximum}")
        rows = await dead_letters.newest(
            _checked(asked.select, discarded, utc_now(clock)), limit=limit, after=asked.after
        )
        found = [Identity(row["source"], row["id"]) for row in rows]
        return ChangeRequest(found, [], rows[-1]["mark"] if len(rows) == limit else None)

    async def named(events: Sequence[NamedDeadLetters]) -> ChangeRequest:
        found: list[Identity] = []
        unknown: list[ChangeFailure] = []
        for event in events:
            try:
                found.append(await resolve(dead_letters, event.id, event.source))
            except Problem as problem:
                unknown.append(ChangeFailure(event.id, event.source, problem.detail))
        return ChangeRequest(found, unknown, None)

    return [
        route(f"{path}/replay", replay, "POST"),
        route(f"{path}/discard", changing(dead_letters.discard, DeadLettersDiscarded), "POST"),
        route(f"{path}/restore", changing(dead_letters.restore, Restored, discarded=True), "POST"),
        route(f"{path}/reset", changing(dead_letters.reset, None), "POST"),
    ]


def _checked(select: Selection | None, discarded: bool, now: datetime) -> Selection:
    """Return the selection: discarded dead letters to restore, others for other changes; raises Problem 422."""
    if select is None or select.discarded not in (False, discarded):
        raise Problem(422, "the body: what was discarded can only be restored")
    try:
        return msgspec.structs.replace(select, discarded=discarded).at(now)
    except ValueError as error:
        raise Problem(422, f"the body: select: {error}") from None
