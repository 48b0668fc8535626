"""Routes about dead letters, for operators: list, count by cause, show, edit, replay, discard, restore, reset."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.clock import Clock, utc_now
from oncecast.core.dead_letter_ports import DeadLetters
from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.telemetry import DeadLettersDiscarded, OperatorActed, Record, Restored, TelemetryEvent
from oncecast.http.operator_api import (
    CHANGE_DEFAULT_EVENTS,
    REPLAY_DEFAULT_EVENTS,
    ChangeRequest,
    DeadLetterReplayResult,
    DeadLetterUnchanged,
    ReplayRequest,
)
from oncecast.http.params import body, client_of, struct, texts
from oncecast.http.problems import Problem, json_response
from oncecast.listener.dead_letters.replay import Replays
from oncecast.listener.http.app import limit_of, page, refuse_while, route, without_mark

PATH = "/api/dead-letters"
CAUSES_PATH = "/api/dead-letter-causes"
WHOLE_MAX_BYTES = 256 * 1024
"""A page of whole dead letters ends here: as JSON it may be twice as long, and a producer relays at most 1 MiB."""
NOT_THERE = "it is not dead (any more), or is being replayed just now"
NOT_DISCARDED = "it is not discarded"
_TEXTS = ("type", "source", "error", "cause", "listener", "since", "until")


class ChosenDeadLetters(NamedTuple):
    """The dead letters of a request; `next` is the mark of the next page of a selection."""

    dead_letters: list[Identity]
    unknown: list[DeadLetterUnchanged]
    next: str | None


DeadLetterChange = Callable[[Sequence[Identity]], Awaitable[set[Identity]]]


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
        limit, after = limit_of(request), request.query_params.get("after")
        selection = selection_of(request)
        if not _flag(request, "whole"):
            rows = await dead_letters.newest(selection, limit=limit, after=after)
            return json_response(page("dead_letters", rows, limit))
        rows, has_more = await dead_letters.read(selection, limit=limit, after=after, max_bytes=WHOLE_MAX_BYTES)
        mark = rows[-1]["mark"] if has_more else None
        return json_response({"dead_letters": [without_mark(row) for row in rows], "next": mark})

    async def causes(request: Request) -> Response:
        """`GET /api/dead-letter-causes?limit=`, and the query of a selection."""
        limit = limit_of(request)
        return json_response(await dead_letters.causes(selection_of(request), limit=limit))

    def selection_of(request: Request) -> Selection:
        """Return the selection in the query; raises Problem 400."""
        ids = tuple(request.query_params.getlist("id"))
        selection = Selection(ids=ids, discarded=_flag(request, "discarded"), **texts(request, _TEXTS))
        try:
            return selection.at(utc_now(clock))
        except ValueError as error:
            raise Problem(400, str(error)) from None

    async def one(request: Request) -> Response:
        """`GET` or `PUT /api/dead-letters/{id}?source=`."""
        if request.method == "PUT":
            return await edit(request)
        return json_response(await whole(await identity(request)))

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
            if (await whole(dead_letter))["discarded_at"] is not None:
                raise Problem(409, f"{dead_letter.id[:100]!r} was discarded: restore it first")
            raise _not_dead(dead_letter.id)
        record(OperatorActed(f"edit the dead letter {dead_letter.id}", 1, client_of(request)))
        return json_response(await whole(dead_letter))

    async def identity(request: Request) -> Identity:
        return await resolve(request.path_params["id"], texts(request, ("source",))["source"])

    async def resolve(id: str, source: str | None) -> Identity:
        """Return the identity of one dead letter, discarded or not; raises Problem 404 or 409."""
        if "\0" in id + (source or ""):
            raise _not_dead(id)
        if source is not None:
            return Identity(source, id)
        rows = await dead_letters.newest(Selection(ids=(id,), discarded=None), limit=2)
        if not rows:
            raise _not_dead(id)
        if len(rows) > 1:
            raise Problem(409, "dead letters of several sources have this id: name the source too")
        return Identity(rows[0]["source"], id)

    async def whole(dead_letter: Identity) -> dict[str, Any]:
        found = await dead_letters.get(*dead_letter)
        if found is None:
            raise _not_dead(dead_letter.id)
        return found

    async def replay(request: Request) -> Response:
        """`POST …/replay`: replay each by itself, in this order if the application has an order."""
        refuse_while(standby_reason())
        batch = await chosen(await struct(request, ReplayRequest), default=REPLAY_DEFAULT_EVENTS)
        results = [DeadLetterReplayResult(x.id, x.source, "not_dead", x.error) for x in batch.unknown]
        replayed = await asyncio.gather(*(replays.replay(source, id_) for source, id_ in batch.dead_letters))
        for (source, id_), result in zip(batch.dead_letters, replayed, strict=True):
            results.append(DeadLetterReplayResult(id_, source, result.outcome.value, result.error))
        record(OperatorActed("replay dead letters", len(batch.dead_letters), client_of(request)))
        return json_response({"results": results, "next": batch.next, "ordered": replays.ordered})

    def changing(
        change: DeadLetterChange, telemetry: Callable[[int], TelemetryEvent] | None, *, discarded: bool = False
    ) -> Any:
        async def answer(request: Request) -> Response:
            body = await struct(request, ChangeRequest)
            batch = await chosen(body, default=CHANGE_DEFAULT_EVENTS, discarded=discarded)
            done = await change(batch.dead_letters) if batch.dead_letters else set()
            if done and telemetry is not None:
                record(telemetry(len(done)))
            verb = request.url.path.rpartition("/")[2]
            record(OperatorActed(f"{verb} dead letters", len(done), client_of(request)))
            reason = NOT_DISCARDED if discarded else NOT_THERE
            others = [
                DeadLetterUnchanged(x.id, x.source, reason)
                for x in dict.fromkeys(batch.dead_letters)
                if x not in done
            ]
            return json_response({"done": len(done), "not_done": [*batch.unknown, *others], "next": batch.next})

        return answer

    async def chosen(asked: ChangeRequest, *, default: int, discarded: bool = False) -> ChosenDeadLetters:
        """Return the named or selected dead letters; select discarded ones to restore, others for other changes."""
        if (asked.events is UNSET) == (asked.select is UNSET):
            raise Problem(422, "the body: it has either `events` or `select`")
        batch = ChosenDeadLetters([], [], None)
        if asked.events is not UNSET:
            if asked.limit is not None or asked.after is not None:
                raise Problem(422, "the body: `limit` and `after` go with `select`")
            for event in asked.events:
                try:
                    batch.dead_letters.append(await resolve(event.id, event.source))
                except Problem as problem:
                    batch.unknown.append(DeadLetterUnchanged(event.id, event.source, problem.detail))
            return batch
        assert asked.select is not UNSET  # noqa: S101 - for mypy
        if asked.select.discarded not in (False, discarded):
            raise Problem(422, "the body: what was discarded can only be restored")
        try:
            selection = msgspec.structs.replace(asked.select, discarded=discarded).at(utc_now(clock))
        except ValueError as error:
            raise Problem(422, f"the body: select: {error}") from None
        limit = asked.limit or default
        rows = await dead_letters.newest(selection, limit=limit, after=asked.after)
        batch.dead_letters.extend(Identity(row["source"], row["id"]) for row in rows)
        return batch._replace(next=rows[-1]["mark"] if len(rows) == limit else None)

    return [
        route(PATH, listing),
        route(CAUSES_PATH, causes),
        route(f"{PATH}/replay", replay, "POST"),
        route(f"{PATH}/discard", changing(dead_letters.discard, DeadLettersDiscarded), "POST"),
        route(f"{PATH}/restore", changing(dead_letters.restore, Restored, discarded=True), "POST"),
        route(f"{PATH}/reset", changing(dead_letters.reset, None), "POST"),
        route(f"{PATH}/{{id:path}}", one, "GET", "PUT"),
    ]


def _flag(request: Request, name: str) -> bool:
    """Return the query's flag `name`, false by default; raises Problem 400."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise Problem(400, f"{name} is true or false")
    return text == "true"


def _not_dead(id: str) -> Problem:
    return Problem(404, f"there is no dead letter {id[:100]!r} (any more)")
