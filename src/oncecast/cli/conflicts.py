"""The commands `conflicts …`: list, show, replay and discard events that repeat an identity with other content."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from oncecast.cli import output
from oncecast.cli.entries import (
    CHANGE_AT_ONCE,
    CONFLICT,
    REPLAY_AT_ONCE,
    REPLAY_DEADLINE_S,
    Yes,
    check_limit,
    failed,
    indented,
    parts,
)
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError
from oncecast.core.event import Cursor

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

PAGE = 1_000

app = App(
    name="conflicts",
    group="Operations",
    help="Inspect, replay and discard conflicts: events with other content under a used source and id.",
)

Id = Annotated[str | None, Parameter(help="Only events with this id.", show_default=False, group="Selection")]
Source = Annotated[str | None, Parameter(help="Only events of this source.", show_default=False, group="Selection")]
All = Annotated[bool, Parameter(negative=(), group="Selection", help="All open conflicts.")]


@app.command(name="list")
def list_(
    *,
    id: Id = None,
    source: Source = None,
    replayed: Annotated[bool, Parameter(negative=(), group="Selection")] = False,
    discarded: Annotated[bool, Parameter(negative=(), group="Selection")] = False,
    limit: int = 50,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """List open conflicts, newest first.

    Parameters
    ----------
    replayed
        Replayed conflicts instead of open ones.
    discarded
        Discarded conflicts instead of open ones.
    limit
        The maximum number of entries.
    """
    check_limit(limit)
    if replayed and discarded:
        raise ConfigError("--replayed and --discarded exclude each other")
    state = "replayed" if replayed else "discarded" if discarded else "open"
    with operator("listener", listener, data) as asked:
        found = CONFLICT.list(asked, {"state": state, "id": id, "source": source, "limit": PAGE})
        shown = list(islice(found, limit))
        has_more = next(found, None) is not None
    if output.wants_json(json):
        for conflict in shown:
            output.json(conflict)
        return
    if not shown:
        output.line(f"There is no {state} conflict.")
        return
    columns = ["seen (UTC)", "conflict", "type", "id", "source", *(["replayed as"] if replayed else [])]
    rows = [
        (x["seen_at"][:19], x["cursor"], x["type"], x["id"], x["source"], x["replayed_as"])[: len(columns)]
        for x in shown
    ]
    output.table("", columns, rows, whole=columns[:2])  # users copy the cursor from here: do not fold it
    if has_more:
        output.line(f"There are more than these {limit:,}; --limit shows more.")


@app.command
def show(
    cursor: str,
    /,
    *,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Show a conflict: the event as it was received, and the row with the same identity.

    Parameters
    ----------
    cursor
        The conflict, as `oncecast conflicts list` prints it.
    """
    with operator("listener", listener, data) as asked:
        found = asked.ask("GET", CONFLICT.path_of(_checked(cursor)))
    if output.wants_json(json):
        output.json(found)
        return
    plain = ("cursor", "id", "source", "type", "seen_at", "listener")
    for name in (*plain, "replayed_at", "replayed_as", "discarded_at"):
        if found[name] is not None:
            output.line(f"{name:14}{output.cell(found[name])}")
    if (row := found["row"]) is not None:
        output.line(f"{'identity of':14}{row['cursor']}, {row['status']} at {row['stored_at']}")
    output.line("event     " + indented(found["event"]))


@app.command
def replay(
    *cursors: str,
    all: All = False,
    id: Id = None,
    source: Source = None,
    new_id: Annotated[str | None, Parameter(show_default=False)] = None,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Process conflicts under new ids: each is stored together with what its handlers write, or stays open.

    Pass conflicts, flags that select, or --all. Several conflicts are processed in the order of their journals. A
    conflict is replayed once; a second request finds it closed. The exit status is 0 if all are stored.

    Parameters
    ----------
    cursors
        The conflicts, as `oncecast conflicts list` prints them.
    new_id
        The id of the new event, for one conflict only; by default a random id.
    """
    if new_id is not None and len(cursors) != 1:
        raise ConfigError("--new-id names one event: give exactly one conflict")
    results: list[dict[str, Any]] = []
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        for part in parts(_chosen(asked, cursors, "open", all=all, id=id, source=source), REPLAY_AT_ONCE):
            body = {"conflicts": [{"cursor": cursor, "id": new_id} for cursor in part]}
            answer = CONFLICT.post(asked, "replay", body, deadline_s=REPLAY_DEADLINE_S)
            results += answer["results"]
            for result in answer["results"]:
                _tell(result, as_json=as_json)
    stored = sum(result["outcome"] == "stored" for result in results)
    if not as_json:
        output.line(f"{stored:,} of {len(results):,} conflicts stored." if results else "There is no such conflict.")
    return 0 if stored == len(results) else 1


@app.command
def discard(
    *cursors: str,
    all: All = False,
    id: Id = None,
    source: Source = None,
    yes: Yes = False,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Close conflicts without processing them. Their rows are kept, and `restore` undoes it.

    Pass conflicts, flags that select, or --all. The exit status is 0 if all are discarded.

    Parameters
    ----------
    cursors
        The conflicts, as `oncecast conflicts list` prints them.
    """
    with operator("listener", listener, data) as asked:
        chosen = _chosen(asked, cursors, "open", all=all, id=id, source=source)
        if len(chosen) > 1 and not yes:
            CONFLICT.confirm(len(chosen))
        return _change(asked, "discard", chosen, as_json=output.wants_json(json))


@app.command
def restore(
    *cursors: str,
    all: Annotated[bool, Parameter(negative=(), group="Selection", help="All discarded conflicts.")] = False,
    id: Id = None,
    source: Source = None,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Open discarded conflicts again.

    Pass conflicts, flags that select, or --all. The exit status is 0 if all are restored.

    Parameters
    ----------
    cursors
        The conflicts, as `oncecast conflicts list --discarded` prints them.
    """
    with operator("listener", listener, data) as asked:
        chosen = _chosen(asked, cursors, "discarded", all=all, id=id, source=source)
        return _change(asked, "restore", chosen, as_json=output.wants_json(json))


def _chosen(
    asked: AdminClient, cursors: Sequence[str], state: str, *, all: bool, id: str | None, source: str | None
) -> list[str]:
    """Return the cursors that a command selects, in the order of each journal. Raises ConfigError."""
    filtered = all or id is not None or source is not None
    if bool(cursors) == filtered:
        raise ConfigError("name conflicts, or choose them with --id, --source or --all")
    if cursors:
        return [_checked(cursor) for cursor in dict.fromkeys(cursors)]
    found = list(CONFLICT.list(asked, {"state": state, "id": id, "source": source, "limit": PAGE}))
    found.sort(key=lambda conflict: (conflict["journal"], Cursor.parse(conflict["cursor"]).offset))
    return [conflict["cursor"] for conflict in found]


def _checked(cursor: str) -> str:
    try:
        return str(Cursor.parse(cursor))
    except ValueError:
        raise ConfigError(
            f"{cursor[:80]!r} is not a conflict; pass one as 'oncecast conflicts list' prints it"
        ) from None


def _tell(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.json(result)
    elif result["outcome"] == "stored":
        output.line(f"{result['cursor']} is stored as {output.printable(result['id'])}.")
    else:
        output.note(failed(result["cursor"], result))


def _change(asked: AdminClient, what: str, cursors: Sequence[str], *, as_json: bool) -> int:
    bodies = ({"cursors": part} for part in parts(cursors, CHANGE_AT_ONCE))
    return CONFLICT.change(asked, what, bodies, as_json=as_json)
