"""Read which dead letters a request selects or names."""

from __future__ import annotations

from starlette.requests import Request

from oncecast.core.clock import Clock, utc_now
from oncecast.core.dead_letter_ports import DeadLetters
from oncecast.core.dead_letters import Identity, Selection
from oncecast.http.params import texts
from oncecast.http.problems import Problem

_TEXTS = ("type", "source", "error", "cause", "listener", "since", "until")


def selection_of(request: Request, clock: Clock) -> Selection:
    """Return the selection in the query; raises Problem 400."""
    ids = tuple(request.query_params.getlist("id"))
    chosen = Selection(ids=ids, discarded=flag(request, "discarded"), **texts(request, _TEXTS))
    try:
        return chosen.at(utc_now(clock))
    except ValueError as error:
        raise Problem(400, str(error)) from None


def flag(request: Request, name: str) -> bool:
    """Return the query's flag `name`, false by default; raises Problem 400."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise Problem(400, f"{name} is true or false")
    return text == "true"


async def resolve(dead_letters: DeadLetters, id: str, source: str | None) -> Identity:
    """Return the identity of one dead letter, discarded or not; raises Problem 404 or 409."""
    if "\0" in id + (source or ""):
        raise not_dead(id)
    if source is not None:
        return Identity(source, id)
    rows = await dead_letters.newest(Selection(ids=(id,), discarded=None), limit=2)
    if not rows:
        raise not_dead(id)
    if len(rows) > 1:
        raise Problem(409, "dead letters of several sources have this id: name the source too")
    return Identity(rows[0]["source"], id)


def not_dead(id: str) -> Problem:
    """Return the Problem for a missing dead letter."""
    return Problem(404, f"there is no dead letter {id[:100]!r} (any more)")
