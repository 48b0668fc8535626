"""The commands `events …`: find, show and follow events that have ended, and list those that will be retried."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter

from oncecast.cli import output
from oncecast.cli.entries import pages
from oncecast.cli.operate import Json, ListenerOption, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError

PAGE_MAX = 1_000
FOLLOW_INTERVAL_S = 1.0
FOLLOWED_MAX = 200
"""The maximum number of events that `follow` shows at a time: at high rates it leaves the others out."""
KNOWN_MAX = 10 * FOLLOWED_MAX
_COLUMNS = ("stored (UTC)", "status", "type", "id", "source", "listener", "attempts")

EventType = Annotated[str | None, Parameter(name="--type", help="Only events of this type.")]
Source = Annotated[str | None, Parameter(help="Only events of this source.")]
EventStatus = Annotated[
    Literal["stored", "dead"] | None, Parameter(name="--status", help="Only stored or dead events.")
]

app = App(name="events", group="Operations", help="Find, show and follow events that have ended, or will be retried.")


@app.default
def list_(
    *,
    retrying: Annotated[bool, Parameter(negative=())] = False,
    type_: EventType = None,
    source: Source = None,
    status: EventStatus = None,
    limit: int = 50,
    listener: ListenerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """List events that have ended, the newest first; with --retrying, those that wait for their next attempt.

    Parameters
    ----------
    retrying
        Events that wait for their next attempt, the soonest first.
    limit
        The maximum number of entries.
    """
    if limit < 1:
        raise ConfigError(f"--limit: {limit} is too small (expected 1 or more)")
    if retrying and (type_ or source or status):
        raise ConfigError("--retrying lists all events that wait: --type, --source and --status do not go with it")
    as_json = output.wants_json(json)
    path, name = ("/api/retrying", "retrying") if retrying else ("/api/events", "events")
    query = {"type": type_, "source": source, "status": status, "limit": min(limit + 1, PAGE_MAX)}
    with operator("listener", listener, data) as asked:
        found = (event for page in pages(asked, path, query) for event in page[name])
        shown = list(islice(found, limit))
        has_more = not as_json and next(found, None) is not None
    if as_json:
        for event in shown:
            output.json(event)
        return
    if not shown:
        output.line("No event waits for another attempt." if retrying else "No such event has ended.")
        return
    _print_retrying(shown) if retrying else _print_ended(shown)
    if has_more:
        output.line(f"Only the first {limit:,} are shown; --limit shows more.")


@app.command
def show(
    id_: Annotated[str, Parameter(name="ID", allow_leading_hyphen=True)],
    /,
    *,
    source: Source = None,
    listener: ListenerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Show one event: its content, its outcome, where it was in the journal, and who stored it when.

    An event that has not ended is shown if it waits for another attempt. The exit status is 1 if there is none.

    Parameters
    ----------
    id_
        The id of the event.
    """
    from oncecast.client.admin import AdminRefused

    with operator("listener", listener, data) as asked:
        try:
            found = asked.ask("GET", f"/api/events/{quote(id_, safe='')}", query={"source": source})
        except AdminRefused as refused:
            if refused.status != 404:
                raise
            waiting = (
                event for page in pages(asked, "/api/retrying", {"limit": PAGE_MAX}) for event in page["retrying"]
            )
            found = next((e for e in waiting if e["id"] == id_ and source in (None, e["source"])), None)
    if found is None:
        return output.error(f"no event {id_[:100]!r} has ended or waits for another attempt; was it published?")
    if output.wants_json(json):
        output.json(found)
    else:
        _print_fields(found)
    return 0


@app.command
def follow(
    *,
    type_: EventType = None,
    source: Source = None,
    status: EventStatus = None,
    listener: ListenerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Print events as they end, until Ctrl-C; at high rates only some of them."""
    as_json = output.wants_json(json)
    query = {"type": type_, "source": source, "status": status, "limit": FOLLOWED_MAX}
    known: deque[tuple[str, str]] = deque(maxlen=KNOWN_MAX)
    is_first = True
    with operator("listener", listener, data) as asked:
        try:
            while True:
                newest = asked.ask("GET", "/api/events", query=query)["events"]
                for row in reversed(newest):
                    if (identity := (row["event"]["source"], row["event"]["id"])) in known:
                        continue
                    known.append(identity)
                    if is_first:
                        continue
                    if as_json:
                        output.json(row)
                    else:
                        output.line(output.printable("  ".join(map(str, _cells(row)))))
                is_first = False
                time.sleep(FOLLOW_INTERVAL_S)
        except KeyboardInterrupt:
            return


def _cells(row: Mapping[str, Any]) -> Sequence[object]:
    event = row["event"]
    return (
        row["stored_at"][:23],
        row["status"],
        event["type"],
        event["id"],
        event["source"],
        row["listener"],
        row["attempts"],
    )


def _print_ended(shown: Iterable[Mapping[str, Any]]) -> None:
    output.table("", _COLUMNS, [_cells(row) for row in shown], whole=_COLUMNS[:1])


def _print_retrying(shown: Iterable[Mapping[str, Any]]) -> None:
    columns = ("next attempt (UTC)", "id", "source", "type", "attempts", "error")
    rows = [(x["next_at"][:19], x["id"], x["source"], x["type"], x["attempts"], x["error"]) for x in shown]
    output.table("", columns, rows, whole=columns[:1])


def _print_fields(found: Mapping[str, Any]) -> None:
    fields = {name: value for name, value in found.items() if name not in ("event", "stale")}
    for name, value in fields.items():
        output.line(output.printable(f"{name:14}{value}"))
    for name, value in found.get("event", {}).items():
        output.line(
            output.printable(f"{name:14}{value if isinstance(value, str) else msgspec.json.encode(value).decode()}")
        )
