"""The command `events`: list events that wait for their next attempt."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from cyclopts import App, Parameter

from oncecast.cli import output
from oncecast.cli.entries import pages
from oncecast.cli.operate import Json, ListenerOption, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError

PATH = "/api/retrying"
PAGE_MAX = 1_000

app = App(name="events", group="Operations", help="List events in progress: those that failed and will be retried.")


@app.default
def list_(
    *,
    retrying: Annotated[bool, Parameter(negative=())] = False,
    limit: int = 50,
    listener: ListenerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """List events that wait for their next attempt (`--retrying`), the soonest first.

    Parameters
    ----------
    retrying
        Events that wait for their next attempt.
    limit
        The maximum number of entries.
    """
    if not retrying:
        raise ConfigError("oncecast events lists nothing without an option: add --retrying")
    if limit < 1:
        raise ConfigError(f"--limit: {limit} is too small (expected 1 or more)")
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        query = {"limit": min(limit + 1, PAGE_MAX)}
        found = (event for page in pages(asked, PATH, query) for event in page["retrying"])
        shown = list(islice(found, limit))
        has_more = not as_json and next(found, None) is not None
    if as_json:
        for event in shown:
            output.json(event)
        return
    if not shown:
        output.line("No event waits for another attempt.")
        return
    rows = [(x["next_at"][:19], x["id"], x["source"], x["type"], x["attempts"], x["error"]) for x in shown]
    columns = ("next attempt (UTC)", "id", "source", "type", "attempts", "error")
    output.table("", columns, rows, whole=columns[:1])
    if has_more:
        output.line(f"Only the first {limit:,} are shown; --limit shows more.")
