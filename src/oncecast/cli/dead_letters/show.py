"""The commands `dead-letters list`, `causes` and `show`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from cyclopts import App, Parameter

from oncecast.cli import output
from oncecast.cli.dead_letters.change import discard, restore
from oncecast.cli.dead_letters.edit import edit
from oncecast.cli.dead_letters.export import export
from oncecast.cli.dead_letters.replay import replay
from oncecast.cli.dead_letters.selection import (
    Choice,
    Source,
    count,
    dead_letters_of,
    print_causes,
)
from oncecast.cli.entries import DEAD_LETTER, check_limit, indented
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError

app = App(
    name="dead-letters",
    group="Operations",
    help="Inspect, edit, replay and discard dead letters: events that Oncecast has given up on.",
)
for command in (replay, edit, discard, restore, export):
    app.command(command)

Discarded = Annotated[
    bool, Parameter(negative=(), group="Selection", help="Discarded dead letters instead of the others.")
]


@app.command(name="list")
def list_(
    *ids: str,
    choice: Choice | None = None,
    discarded: Discarded = False,
    limit: int = 50,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """List dead letters, newest first; if there are more than --limit, print their causes, too.

    Parameters
    ----------
    ids
        Only these ids.
    limit
        The maximum number of entries.
    """
    check_limit(limit)
    selections = (choice or Choice()).selections(ids, discarded=discarded)
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        found = dead_letters_of(asked, selections)
        if as_json:
            for dead_letter in islice(found, limit):
                output.json(dead_letter)
            return
        shown = list(islice(found, limit))
        has_more = next(found, None) is not None
        counted = count(asked, selections) if has_more else None
    if not shown:
        output.line(f"There is no {'discarded ' if discarded else ''}dead letter.")
        return
    rows = [(x["died_at"][:19], x["id"], x["type"], x["attempts"], _edited(x) + x["error"]) for x in shown]
    output.table("", ("died (UTC)", "id", "type", "attempts", "error"), rows)
    if counted is not None:
        output.line(f"{len(shown):,} of {DEAD_LETTER.count(counted.dead_letters)} are shown. By cause:")
        print_causes(counted, limit=5)


@app.command
def causes(
    *ids: str,
    choice: Choice | None = None,
    discarded: Discarded = False,
    limit: int = 50,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Count dead letters by cause, the most frequent first.

    Errors that differ only in numbers and ids have one cause: a word that contains a digit is replaced by `#`, and so
    is a value behind `=` in quotes or brackets. `--cause` of other commands selects by cause.

    Parameters
    ----------
    ids
        Only these ids.
    limit
        The maximum number of causes.
    """
    if not 1 <= limit <= 1000:
        raise ConfigError(f"invalid value for --limit: {limit} (expected a whole number from 1 to 1000)")
    selections = (choice or Choice()).selections(ids, discarded=discarded)
    with operator("listener", listener, data) as asked:
        counted = count(asked, selections)
    if output.wants_json(json):
        for cause in counted.causes[:limit]:
            output.json(cause)
    elif not counted.dead_letters:
        output.line(f"There is no {'discarded ' if discarded else ''}dead letter.")
    else:
        print_causes(counted, limit=limit)
        output.line(f"{DEAD_LETTER.count(counted.dead_letters)}.")


@app.command
def show(
    id: str,
    /,
    *,
    source: Source = None,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Show a dead letter: the event as it was received, the edited data, error and traceback.

    Parameters
    ----------
    id
        The event's id.
    """
    with operator("listener", listener, data) as asked:
        dead_letter = asked.ask("GET", DEAD_LETTER.path_of(id), query={"source": source})
    if output.wants_json(json):
        output.json(dead_letter)
        return
    names = ("id", "source", "type", "died_at", "listener", "attempts", "cause", "error")
    for name in names:
        output.line(f"{name:10}{output.cell(dead_letter[name])}")
    if dead_letter["discarded_at"] is not None:
        output.line(f"discarded {output.cell(dead_letter['discarded_at'])}")
    output.line("event     " + indented(dead_letter["event"]))
    if dead_letter["edited"]:
        output.line("edited    " + indented(dead_letter["edited_data"]))
    output.line("trace")
    for line in dead_letter["trace"].splitlines():
        output.line("  " + output.printable(line))


def _edited(dead_letter: dict[str, Any]) -> str:
    return "(edited) " if dead_letter["edited"] else ""
