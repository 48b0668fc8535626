"""The commands `dead-letters discard` and `restore`: exclude dead letters from lists, and undo it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from oncecast.cli import output
from oncecast.cli.dead_letters.selection import Choice, as_of_now, check_chosen, count, plan
from oncecast.cli.entries import CHANGE_AT_ONCE, DEAD_LETTER, All, Yes, parts
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.dead_letters import Selection


def discard(
    *ids: str,
    all: All = False,
    choice: Choice | None = None,
    yes: Yes = False,
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
    dry_run
        Only print the number of dead letters and their causes.
    """
    choice = choice or Choice()
    check_chosen("discard", ids, choice, all=all)
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        selections = as_of_now(asked, choice.selections(ids))
        counted = count(asked, selections)
        if dry_run:
            return plan(counted, "discard", as_json=as_json)
        if counted.dead_letters > 1 and not yes:
            DEAD_LETTER.confirm(counted.dead_letters)
        return DEAD_LETTER.change(asked, "discard", _bodies(ids, choice, selections), as_json=as_json)


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
    check_chosen("restore", ids, choice, all=all)
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        selections = choice.selections(ids, discarded=True)
        if dry_run:
            return plan(count(asked, selections), "restore", as_json=as_json)
        return DEAD_LETTER.change(asked, "restore", _bodies(ids, choice, selections), as_json=as_json)


def _bodies(ids: Sequence[str], choice: Choice, selections: Sequence[Selection]) -> Iterator[dict[str, Any]]:
    """Yield the requests: by id, or by selection, which repeats until nothing is left."""
    if ids and not choice.narrows:
        for part in parts(dict.fromkeys(ids), CHANGE_AT_ONCE):
            yield {"events": [{"id": id_, "source": choice.source} for id_ in part]}
    else:
        for selection in selections:
            yield {"select": msgspec.to_builtins(selection), "limit": CHANGE_AT_ONCE}
