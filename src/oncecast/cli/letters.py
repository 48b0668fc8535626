"""The commands `dead-letters list|show|edit|replay`: an operator's way from a dead letter back to stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter

from oncecast.cli import output, stack_file
from oncecast.cli.operate import Data, Json, Listener, operator
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.client.operator import Operator

app = App(
    name="dead-letters", group="Operations", help="What was given up on: look at it, mend it, process it again."
)

PATH = "/api/dead-letters"
PAGE_EVENTS = 100
REPLAY_EVENTS = 10
REPLAY_DEADLINE_S = 900.0

Source = Annotated[str | None, Parameter(help="The event's source; needed where several sources have its id.")]
Filter = Annotated[str | None, Parameter(show_default=False)]


@app.command(name="list")
def list_(
    *,
    type: Filter = None,
    source: Filter = None,
    error: Filter = None,
    limit: int = 50,
    listener: Listener = None,
    data: Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """List dead letters, newest first.

    Parameters
    ----------
    type
        Only events of this type.
    source
        Only events of this source.
    error
        Only those whose error holds this text.
    limit
        How many at most.
    """
    filters = {"type": type, "source": source, "error": error}
    with operator("listener", listener, data) as asked:
        letters = [letter for letter, _ in zip(_letters(asked, filters), range(limit), strict=False)]
    if output.wants_json(json):
        for letter in letters:
            output.json(letter)
        return
    if not letters:
        output.line("There is no dead letter.")
        return
    rows = [(x["died_at"][:19], x["id"], x["type"], x["attempts"], _mended(x) + x["error"]) for x in letters]
    output.table("", ("died (UTC)", "id", "type", "attempts", "error"), rows)


@app.command
def show(
    id: str,
    /,
    *,
    source: Source = None,
    listener: Listener = None,
    data: Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Show one dead letter: the event as it was received, its error and trace.

    Parameters
    ----------
    id
        The event's id.
    """
    with operator("listener", listener, data) as asked:
        letter = asked.ask("GET", _path(id), query={"source": source})
    if output.wants_json(json):
        output.json(letter)
        return
    for name in ("id", "source", "type", "died_at", "listener", "attempts", "error"):
        output.line(f"{name:10}{output.cell(letter[name])}")
    output.line("event     " + _indented(letter["event"]))
    if letter["mended"]:
        output.line("mended    " + _indented(letter["mended_data"]))
    output.line("trace")
    for line in letter["trace"].splitlines():
        output.line("  " + output.printable(line))


@app.command
def edit(
    id: str,
    /,
    *,
    data_: Annotated[str, Parameter(name="--data", help="JSON, or @FILE, or - for standard input.")],
    source: Source = None,
    listener: Listener = None,
    stack: Annotated[
        Path, Parameter(help="The folder of a stack that `oncecast up` started.")
    ] = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Mend the data of a dead letter: replays use it, and the original is kept.

    Parameters
    ----------
    id
        The event's id.
    """
    content = _content(data_)
    with operator("listener", listener, stack) as asked:
        letter = asked.ask("PUT", _path(id), query={"source": source}, body=content)
    if output.wants_json(json):
        output.json(letter)
    else:
        output.line(
            f"{output.printable(id)} is mended; 'oncecast dead-letters replay {output.printable(id)}' processes it."
        )


@app.command
def replay(
    *ids: str,
    all: bool = False,
    source: Source = None,
    type: Filter = None,
    error: Filter = None,
    dry_run: bool = False,
    listener: Listener = None,
    data: Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Process dead letters again: each is stored together with what its handler writes, or stays dead.

    Twice asked is once done. Exits with 0 when every one that was asked for is stored.

    Parameters
    ----------
    ids
        The ids of the events.
    all
        All dead letters instead, or all of --type, --source, --error.
    type
        With --all: only events of this type.
    error
        With --all: only those whose error holds this text.
    dry_run
        Only say which ones it would be.
    """
    if bool(ids) == all:
        raise ConfigError("name the ids to replay, or say --all")
    if not all and (type or error):
        raise ConfigError("--type and --error choose among --all")
    with operator("listener", listener, data) as asked:
        if all:
            chosen = list(_letters(asked, {"type": type, "source": source, "error": error}))
        else:
            chosen = [{"id": id_, "source": source} for id_ in ids]
        if dry_run:
            return _tell_plan(chosen, as_json=output.wants_json(json))
        results = _replay(asked, chosen)
    return _tell_results(results, as_json=output.wants_json(json))


def _replay(asked: Operator, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    results: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("replaying", total=len(chosen))
        for begin in range(0, len(chosen), REPLAY_EVENTS):
            events = [{"id": x["id"], "source": x["source"]} for x in chosen[begin : begin + REPLAY_EVENTS]]
            body = msgspec.json.encode({"events": events})
            results += asked.ask("POST", f"{PATH}/replay", body=body, deadline_s=REPLAY_DEADLINE_S)["results"]
            progress.update(task, completed=len(results))
    return results


def _tell_plan(chosen: list[dict[str, Any]], *, as_json: bool) -> int:
    if as_json:
        output.json({"would_replay": [{"id": x["id"], "source": x["source"]} for x in chosen]})
    else:
        for letter in chosen:
            output.line(
                output.printable(f"{letter['id']}  {letter.get('type', '')}  {letter.get('error', '')}".rstrip())
            )
        output.line(f"{len(chosen):,} dead letters would be replayed.")
    return 0


def _tell_results(results: list[dict[str, Any]], *, as_json: bool) -> int:
    stored = sum(result["outcome"] == "stored" for result in results)
    if as_json:
        output.json({"stored": stored, "not_stored": len(results) - stored, "results": results})
    else:
        for result in results:
            if result["outcome"] != "stored":
                reason = f"{result['id']}: {result['outcome'].replace('_', ' ')}: {result['error']}"
                output.note(output.printable(reason))
        output.line(f"{stored:,} of {len(results):,} stored.")
    return 0 if stored == len(results) else 1


def _letters(asked: Operator, filters: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """All dead letters, page by page: what dies or is replayed meanwhile disturbs no page."""
    mark: str | None = None
    while True:
        answer = asked.ask("GET", PATH, query={**filters, "limit": PAGE_EVENTS, "after": mark})
        yield from answer["dead_letters"]
        mark = answer["next"]
        if mark is None:
            return


def _path(id: str) -> str:
    return f"{PATH}/{quote(id, safe='')}"


def _content(text: str) -> bytes:
    try:
        if text == "-":
            return sys.stdin.buffer.read()
        if text.startswith("@"):
            return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--data: cannot read {error.filename!r}: {error.strerror}") from None
    return text.encode()


def _mended(letter: dict[str, Any]) -> str:
    return "(mended) " if letter["mended"] else ""


def _indented(value: Any) -> str:
    lines = msgspec.json.format(msgspec.json.encode(value), indent=2).decode().splitlines()
    return "\n          ".join(output.printable(line) for line in lines)
