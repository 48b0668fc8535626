"""The commands `dead-letters discard` and `restore`: exclude dead letters from lists, and undo it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.dead_letters.selection import (
    PATH,
    Choice,
    as_of_now,
    count,
    dead_letters,
    done,
    nothing_chosen,
    plan,
)
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.dead_letters import Selection
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

CHANGE_EVENTS = 500
FAILURES_SHOWN = 20
INTERRUPTED_STATUS = 130

All = Annotated[bool, Parameter(negative=(), group="Selection")]


def discard(
    *ids: str,
    all: All = False,
    choice: Choice | None = None,
    yes: Annotated[bool, Parameter(negative=())] = False,
    dry_run: bool = False,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Exclude dead letters from lists and replays. Their rows are kept, and `restore` undoes it.

    Pass ids, flags that select, or --all. The exit status is 0 if all are discarded.

    Parameters
    ----------
    ids
        The ids of the events.
    all
        All dead letters.
    yes
        Do not ask for confirmation before discarding several.
    dry_run
        Only print the number of dead letters and their causes.
    """
    choice = choice or Choice()
    if nothing_chosen(ids, choice, all=all):
        raise ConfigError("name the ids to discard, choose with --type, --error, --cause and the like, or say --all")
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        selections = as_of_now(asked, choice.selections(ids))
        counted = count(asked, selections)
        if dry_run:
            return plan(counted, "discard", as_json=as_json)
        if counted.dead_letters > 1 and not yes:
            output.confirm(dead_letters(counted.dead_letters), "look first with --dry-run")
        return _change(asked, "discard", ids, choice, selections, as_json=as_json)


def restore(
    *ids: str,
    all: All = False,
    choice: Choice | None = None,
    dry_run: bool = False,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Restore discarded dead letters: they are listed again, and can be replayed.

    Pass ids, flags that select, or --all. The exit status is 0 if all are restored.

    Parameters
    ----------
    ids
        The ids of the events.
    all
        All discarded dead letters.
    dry_run
        Only print the number of dead letters and their causes.
    """
    choice = choice or Choice()
    if nothing_chosen(ids, choice, all=all):
        raise ConfigError("name the ids to restore, choose with --type, --error, --cause and the like, or say --all")
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        selections = choice.selections(ids, discarded=True)
        if dry_run:
            return plan(count(asked, selections), "restore", as_json=as_json)
        return _change(asked, "restore", ids, choice, selections, as_json=as_json)


def _change(
    asked: AdminClient,
    what: str,
    ids: Sequence[str],
    choice: Choice,
    selections: Sequence[Selection],
    *,
    as_json: bool,
) -> int:
    is_named = bool(ids) and not choice.narrows
    answers = _named(asked, what, ids, choice.source) if is_named else _selected(asked, what, selections)
    changed, not_done, interrupted = 0, 0, False
    failures: list[dict[str, Any]] = []
    try:
        for answer in answers:
            changed += answer["done"]
            not_done += len(answer["not_done"])
            failures += answer["not_done"][: FAILURES_SHOWN - len(failures)]
    except KeyboardInterrupt:
        interrupted = True
        output.error("interrupted; the rest is as it was, or was being asked for")
    if as_json:
        output.json({done(what): changed, f"not_{done(what)}": not_done, "failures": failures})
    else:
        for failure in failures:
            output.note(f"{failure['id']}: {failure['error']}")
        back = "; 'oncecast dead-letters restore' brings them back" if what == "discard" and changed else ""
        output.line(f"{dead_letters(changed)} {done(what)}{back}.")
    if interrupted:
        return INTERRUPTED_STATUS
    return 1 if not_done else 0


def _named(asked: AdminClient, what: str, ids: Sequence[str], source: str | None) -> Iterator[dict[str, Any]]:
    distinct = list(dict.fromkeys(ids))
    for begin in range(0, len(distinct), CHANGE_EVENTS):
        events = [{"id": id_, "source": source} for id_ in distinct[begin : begin + CHANGE_EVENTS]]
        yield _post(asked, what, {"events": events})


def _selected(asked: AdminClient, what: str, selections: Sequence[Selection]) -> Iterator[dict[str, Any]]:
    for selection in selections:
        mark: str | None = None
        while True:
            body = {"select": msgspec.to_builtins(selection), "limit": CHANGE_EVENTS, "after": mark}
            answer = _post(asked, what, body)
            yield answer
            mark = answer["next"]
            if mark is None:
                break


def _post(asked: AdminClient, what: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = asked.ask("POST", f"{PATH}/{what}", body=msgspec.json.encode(body))
    return answer
