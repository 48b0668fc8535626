"""The commands `groups`, `journal` and `prune`, about the retention of events and rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter

from oncecast.cli import output
from oncecast.cli.events.publish import secret
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.durations import duration_s
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

PRUNE_DEADLINE_S = 330.0

ProducerOption = Annotated[
    str | None, Parameter(help="The URL of the producer; by default that of the stack, else http://localhost:8080.")
]
ListenerOption = Annotated[
    str | None, Parameter(help="The URL of the listener; by default one of the stack, else http://localhost:3001.")
]
Either = Annotated[
    str | None,
    Parameter(
        name=("--listener", "--producer"),
        help="The URL of a listener, or of a producer, which relays the request. Several, separated by commas, share"
        " a replay, and stand in for each other otherwise; by default the stack's listeners, else"
        " http://localhost:3001.",
    ),
]
Json = Annotated[
    bool | None, Parameter(help="Print JSON, one object per line; the default if the output is not a terminal.")
]

journal = App(name="journal", group="Operations", help="Show and check the journal of a producer.")
journal.command("oncecast.cli.journal_file:check")
journal.command("oncecast.cli.journal_file:skip")
groups = App(name="groups", group="Operations", help="List and forget the groups that a producer keeps events for.")


@contextmanager
def operator(kind: str, given: str | None, data: Path) -> Iterator[AdminClient]:
    """Connect to the process given, else one of the stack, else the default address.

    Sends ADMIN_TOKEN or, if that is not set, SUBSCRIBE_TOKEN, which suffices for reading.
    """
    from oncecast.client.admin import AdminClient, AdminRefused  # httpx2 takes a tenth of a second to import

    token, hint = secret("ADMIN_TOKEN"), "it does not accept the ADMIN_TOKEN of this environment"
    if token is None:
        token, hint = secret("SUBSCRIBE_TOKEN"), "ADMIN_TOKEN is not set here; SUBSCRIBE_TOKEN was sent instead"
    if token is None:
        hint = "neither ADMIN_TOKEN nor SUBSCRIBE_TOKEN is set here"
    with AdminClient(stack_file.addresses(kind, given, data), token=token) as found:
        try:
            yield found
        except AdminRefused as refused:
            if refused.status != HTTPStatus.UNAUTHORIZED:
                raise
            raise AdminRefused(f"{refused}; {hint}", refused.status) from None


@groups.command(name="list")
def list_(
    *, producer: ProducerOption = None, data: stack_file.Data = stack_file.DEFAULT_DATA, json: Json = None
) -> None:
    """List the groups, their progress, and whether they hold events back."""
    with operator("producer", producer, data) as producer_:
        found = producer_.ask("GET", "/api/groups")["groups"]
    if output.wants_json(json):
        for group in found:
            output.json(group)
        return
    rows = [
        (g["name"], g["behind"], g["connected"], "–" if g["connected"] else _span(g["unseen_s"]), _state(g))
        for g in found
    ]
    output.table("", ("group", "behind", "listeners", "unseen for", "state"), rows)


@groups.command
def forget(
    name: str,
    /,
    *,
    producer: ProducerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Stop keeping events for the group NAME. If it returns, the deleted events are recorded as a gap.

    Parameters
    ----------
    name
        The group, as `oncecast groups list` prints it.
    """
    with operator("producer", producer, data) as producer_:
        answer = producer_.ask("DELETE", f"/api/groups/{_in_path(name)}")
    if output.wants_json(json):
        output.json(answer)
    else:
        output.line(f"{output.printable(name)} does not hold back retention any more.")


@journal.default
def show(
    *, producer: ProducerOption = None, data: stack_file.Data = stack_file.DEFAULT_DATA, json: Json = None
) -> None:
    """Show the journal of a producer: its offsets, its size, and the group that holds events back."""
    with operator("producer", producer, data) as producer_:
        found = producer_.ask("GET", "/api/journal")
    if output.wants_json(json):
        output.json(found)
        return
    used = (
        f"{_size(found['bytes'])} of {_size(found['max_bytes'])} ({100 * found['bytes'] / found['max_bytes']:.0f} %)"
    )
    holder = found["held_back_by"]
    rows = [
        ("name", found["name"]),
        ("epoch", found["epoch"]),
        ("offsets", f"{found['first']:,} to {found['last']:,}"),
        ("used", used),
        ("of that not processed", f"{found['unsettled_percent']} % of the cap"),
        ("held back by", holder or "nobody"),
    ]
    for name, value in rows:
        output.line(output.printable(f"{name:24}{value}"))
    if holder:
        output.line(f"'oncecast groups list' shows how far {output.printable(holder)} has read.")


def prune(
    *,
    older_than: str,
    dry_run: bool = False,
    listener: ListenerOption = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Delete the rows of stored events that are older than a duration. Dead letters are kept.

    Only rows below every saved cursor are deleted. An event without a row is processed again if it is published
    again: duplicates are recognised only as far back as rows are kept.

    Parameters
    ----------
    older_than
        The minimum age, such as 30d or 12h.
    dry_run
        Only print the number of rows.
    """
    try:
        older_than_s = duration_s(older_than)
    except ValueError as error:
        raise ConfigError(f"invalid value for --older-than: {older_than[:40]!r} (expected {error})") from None
    if not older_than_s:
        raise ConfigError(
            f"invalid value for --older-than: {older_than[:40]!r} (expected a duration above 0, such as 30d)"
        )
    body = msgspec.json.encode({"older_than_s": older_than_s, "dry_run": dry_run})
    rows, more = 0, True
    with operator("listener", listener, data) as listener_:
        while more:
            answer = listener_.ask("POST", "/api/prune", body=body, deadline_s=PRUNE_DEADLINE_S)
            rows, more = rows + answer["rows"], answer["more"]
    if output.wants_json(json):
        output.json({"rows": rows, "dry_run": dry_run})
    else:
        output.line(f"{rows:,} rows {'would go' if dry_run else 'are gone'}.")


def _in_path(name: str) -> str:
    """Return `name` encoded as one segment of a URL path, `..` included."""
    return "%2E" * len(name) if name in (".", "..") else quote(name, safe="")


def _state(group: dict[str, object]) -> str:
    if group["forgotten"]:
        return "forgotten: holds nothing back"
    if group["expired"]:
        return "expired: holds nothing back"
    return "holds back what it has not processed" if group["behind"] else "has everything"


def _span(seconds: float) -> str:
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}".replace(".0 ", " ")
