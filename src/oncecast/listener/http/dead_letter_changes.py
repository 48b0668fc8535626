"""What operators do to many dead letters at once: replay, discard, restore, reset; so many a request, and no more."""

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
from oncecast.core.telemetry import Discarded, Fact, Observe, OperatorActed, Restored
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


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """A dead letter by its id; by its source too, where several have that id."""

    id: str
    source: str | None = None


class Chosen(msgspec.Struct, forbid_unknown_fields=True):
    """The body: `events` that are named; or, newest first, the next `limit` of those that `select` chooses, behind
    the mark `after`."""

    events: Annotated[list[Named], msgspec.Meta(min_length=1, max_length=CHANGE_MAX_EVENTS)] | None = None
    select: Selection | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=CHANGE_MAX_EVENTS)] | None = None
    after: str | None = None


class Failure(NamedTuple):
    """Why nothing is done about one of them."""

    id: str
    source: str | None
    error: str


class Batch(NamedTuple):
    """What one request is about; `next` is the mark behind which more are selected."""

    letters: list[Identity]
    unknown: list[Failure]
    next: str | None


Change = Callable[[Sequence[Identity]], Awaitable[set[Identity]]]


def changing_routes(
    letters: DeadLetters,
    replays: Replays,
    clock: Clock,
    path: str,
    *,
    objection: Callable[[], str | None],
    observe: Observe,
) -> list[BaseRoute]:
    """The routes under `path`; with an `objection()` nothing is replayed: handlers may be missing."""

    async def replay(request: Request) -> Response:
        """`POST …/replay`: one after another, each for itself."""
        if reason := objection():
            raise Problem(503, f"this listener does not work: {reason}", headers=RETRY_AFTER)
        batch = await chosen(request, default=REPLAY_DEFAULT_EVENTS, maximum=REPLAY_MAX_EVENTS)
        results = [
            {"id": id_, "source": source, "outcome": "not_dead", "error": error}
            for id_, source, error in batch.unknown
        ]
        for source, id_ in batch.letters:
            result = await replays.replay(source, id_)
            results.append({"id": id_, "source": source, "outcome": result.outcome.value, "error": result.error})
        observe(OperatorActed("replay dead letters", len(batch.letters), client_of(request)))
        return json_response({"results": results, "next": batch.next})

    def changing(change: Change, fact: Callable[[int], Fact] | None, *, discarded: bool = False) -> Any:
        async def answer(request: Request) -> Response:
            batch = await chosen(
                request, default=CHANGE_DEFAULT_EVENTS, maximum=CHANGE_MAX_EVENTS, discarded=discarded
            )
            done = await change(batch.letters) if batch.letters else set()
            if done and fact is not None:
                observe(fact(len(done)))
            verb = request.url.path.rpartition("/")[2]
            observe(OperatorActed(f"{verb} dead letters", len(done), client_of(request)))
            reason = NOT_DISCARDED if discarded else NOT_THERE
            others = [Failure(x.id, x.source, reason) for x in dict.fromkeys(batch.letters) if x not in done]
            not_done = [failure._asdict() for failure in [*batch.unknown, *others]]
            return json_response({"done": len(done), "not_done": not_done, "next": batch.next})

        return answer

    async def chosen(request: Request, *, default: int, maximum: int, discarded: bool = False) -> Batch:
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
        rows = await letters.newest(_checked(asked.select, discarded, utc_now(clock)), limit=limit, after=asked.after)
        found = [Identity(row["source"], row["id"]) for row in rows]
        return Batch(found, [], rows[-1]["mark"] if len(rows) == limit else None)

    async def named(events: Sequence[Named]) -> Batch:
        found: list[Identity] = []
        unknown: list[Failure] = []
        for event in events:
            try:
                found.append(await resolve(letters, event.id, event.source))
            except Problem as problem:
                unknown.append(Failure(event.id, event.source, problem.detail))
        return Batch(found, unknown, None)

    return [
        route(f"{path}/replay", replay, "POST"),
        route(f"{path}/discard", changing(letters.discard, Discarded), "POST"),
        route(f"{path}/restore", changing(letters.restore, Restored, discarded=True), "POST"),
        route(f"{path}/reset", changing(letters.reset, None), "POST"),
    ]


def _checked(select: Selection | None, discarded: bool, now: datetime) -> Selection:
    """Restoring is about what was discarded, anything else about what was not; raises Problem 422."""
    if select is None or select.discarded not in (False, discarded):
        raise Problem(422, "the body: what was discarded can only be restored")
    try:
        return msgspec.structs.replace(select, discarded=discarded).at(now)
    except ValueError as error:
        raise Problem(422, f"the body: select: {error}") from None
