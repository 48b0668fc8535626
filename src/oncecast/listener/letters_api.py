"""Dead letters over HTTP, for operators: list, look at, mend, replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.ports import DeadLetters
from oncecast.http.params import body, struct, texts, whole_number
from oncecast.http.problems import Problem, json_response
from oncecast.listener.api import PAGE_DEFAULT_EVENTS, PAGE_MAX_EVENTS, RETRY_AFTER, page, route
from oncecast.listener.replay import Replays

PATH = "/api/dead-letters"
REPLAY_MAX_EVENTS = 100
_FILTERS = ("type", "source", "id", "listener", "error")


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """A dead letter by its id; by its source too, where several have that id."""

    id: str
    source: str | None = None


class ReplayRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/dead-letters/replay`."""

    events: Annotated[list[Named], msgspec.Meta(min_length=1, max_length=REPLAY_MAX_EVENTS)]


def letters_routes(letters: DeadLetters, replays: Replays, *, objection: Callable[[], str | None]) -> list[BaseRoute]:
    """The routes under `/api/dead-letters`; with an `objection()` nothing is replayed: handlers may be missing."""

    async def listing(request: Request) -> Response:
        """`GET /api/dead-letters?limit=&after=&type=&source=&id=&listener=&error=`."""
        limit = whole_number(request, "limit", default=PAGE_DEFAULT_EVENTS, maximum=PAGE_MAX_EVENTS)
        after = request.query_params.get("after")
        rows = await letters.newest(limit=limit, after=after, **texts(request, _FILTERS))
        return json_response(page("dead_letters", rows, limit))

    async def one(request: Request) -> Response:
        """`GET` or `PUT /api/dead-letters/{id}?source=`."""
        if request.method == "PUT":
            return await mend(request)
        return json_response(await found(*await identity(request)))

    async def mend(request: Request) -> Response:
        """The body is the mended data."""
        data = await body(request)
        try:
            msgspec.json.decode(data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the mended data is not JSON: {error}") from None
        source, id_ = await identity(request)
        if not await letters.mend(source, id_, data):
            raise not_dead(id_)
        return json_response(await found(source, id_))

    async def replay(request: Request) -> Response:
        """`POST /api/dead-letters/replay`: one after another, each for itself."""
        if reason := objection():
            raise Problem(503, f"this listener does not work: {reason}", headers=RETRY_AFTER)
        named = await struct(request, ReplayRequest)
        results = []
        for letter in named.events:
            try:
                source, id_ = await resolve(letter.id, letter.source)
            except Problem as problem:
                outcome = {"source": letter.source, "outcome": "not_dead", "error": problem.detail}
                results.append({"id": letter.id, **outcome})
                continue
            result = await replays.replay(source, id_)
            results.append({"id": id_, "source": source, "outcome": result.outcome.value, "error": result.error})
        return json_response({"results": results})

    async def identity(request: Request) -> tuple[str, str]:
        return await resolve(request.path_params["id"], texts(request, ("source",))["source"])

    async def resolve(id: str, source: str | None) -> tuple[str, str]:
        """Source and id of one dead letter; raises Problem 404 or 409."""
        if "\0" in id + (source or ""):
            raise not_dead(id)
        if source is not None:
            return source, id
        rows = await letters.newest(limit=2, id=id)
        if not rows:
            raise not_dead(id)
        if len(rows) > 1:
            raise Problem(409, "dead letters of several sources have this id: name the source too")
        return rows[0]["source"], id

    async def found(source: str, id: str) -> dict[str, Any]:
        letter = await letters.get(source, id)
        if letter is None:
            raise not_dead(id)
        return letter

    def not_dead(id: str) -> Problem:
        return Problem(404, f"there is no dead letter {id[:100]!r} (any more)")

    return [
        route(PATH, listing),
        route(f"{PATH}/replay", replay, "POST"),
        route(f"{PATH}/{{id:path}}", one, "GET", "PUT"),
    ]
