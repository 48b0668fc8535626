"""Select dead letters by ids and flags, and request them page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.entries import DEAD_LETTER, done, parts
from oncecast.core.dead_letters import Selection
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

CAUSES_PATH = "/api/dead-letter-causes"
PAGE_EVENTS = 100
IDS_AT_ONCE = 50
CAUSES_MAX = 1_000
CAUSES_SHOWN = 20

Source = Annotated[str | None, Parameter(help="The event's source; needed if several sources have this id.")]


def _filter(help: str) -> Parameter:
    return Parameter(help=help, show_default=False, group="Selection")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Flags that select dead letters; all given flags must match."""

    type: Annotated[str | None, _filter("Only events of this type; order.* selects all types with this prefix.")] = (
        None
    )
    source: Annotated[str | None, _filter("Only events of this source.")] = None
    error: Annotated[
        str | None, _filter("Only dead letters whose error contains this text, in upper or lower case.")
    ] = None
    cause: Annotated[str | None, _filter("Only dead letters of this cause, as `dead-letters causes` names it.")] = (
        None
    )
    instance: Annotated[str | None, _filter("Only events that died at the listener of this name.")] = None
    since: Annotated[
        str | None, _filter("Only events that died at or after this time (2026-01-31T12:00:00Z) or age (2h).")
    ] = None
    until: Annotated[str | None, _filter("Only events that died before this time or age.")] = None

    @property
    def narrows(self) -> bool:
        """Whether a flag other than the source is given; the source only makes an id unique."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name != "source")

    def selections(self, ids: Sequence[str] = (), *, discarded: bool = False) -> list[Selection]:
        """Return selections of the dead letters in `ids`, or of all if it is empty. Raises ConfigError."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["listener"] = values.pop("instance")
        chunks = [tuple(part) for part in parts(dict.fromkeys(ids), IDS_AT_ONCE)]
        now = datetime.now(UTC)
        try:
            return [Selection(ids=chunk, discarded=discarded, **values).at(now) for chunk in chunks or [()]]
        except ValueError as error:
            name, _, reason = str(error).partition(": ")
            flag = {"listener": "--instance", "id": "ID"}.get(name, f"--{name}")
            raise ConfigError(f"{flag}: {reason}") from None


def check_chosen(what: str, ids: Sequence[str], choice: Choice, *, all: bool) -> None:
    """Raise ConfigError unless either ids, flags or --all are given."""
    if all and ids:
        raise ConfigError("name ids, or say --all: not both")
    if not (ids or all or choice.narrows or choice.source is not None):
        raise ConfigError(f"name the ids to {what}, choose with --type, --error, --cause and the like, or say --all")


def query_of(selection: Selection) -> dict[str, Any]:
    """Return `selection` as the query of a request."""
    values: dict[str, Any] = msgspec.to_builtins(selection)
    ids = values.pop("ids", [])
    return {**values, "id": ids, "discarded": "true" if selection.discarded else "false"}


def dead_letters_of(asked: AdminClient, selections: Sequence[Selection]) -> Iterator[dict[str, Any]]:
    """Yield the selected dead letters, newest first."""
    for selection in selections:
        yield from DEAD_LETTER.list(asked, {**query_of(selection), "limit": PAGE_EVENTS})


def as_of_now(asked: AdminClient, selections: Sequence[Selection]) -> list[Selection]:
    """Exclude later dead letters, so that a bulk operation changes only what was counted."""
    query = {"limit": 1, "discarded": query_of(selections[0])["discarded"]}
    found = asked.ask("GET", DEAD_LETTER.path, query=query)["dead_letters"]
    if not found:
        return list(selections)
    newest = datetime.fromisoformat(found[0]["died_at"])
    until = (newest + timedelta(microseconds=1)).isoformat().replace("+00:00", "Z")
    return [s if s.until is not None else msgspec.structs.replace(s, until=until) for s in selections]


@dataclass(slots=True)
class Counted:
    """The number of dead letters, their causes (most frequent first), and the number of causes left out."""

    dead_letters: int
    causes: list[dict[str, Any]]
    left_out: int


def count(asked: AdminClient, selections: Sequence[Selection], *, limit: int = CAUSES_MAX) -> Counted:
    """Count the dead letters of all `selections` by cause."""
    counted = Counted(0, [], 0)
    by_cause: dict[str, dict[str, Any]] = {}
    for selection in selections:
        found = asked.ask("GET", CAUSES_PATH, query={**query_of(selection), "limit": limit})
        counted.dead_letters += found["dead_letters"]
        counted.left_out += found["left_out"]
        for cause in found["causes"]:
            known = by_cause.setdefault(cause["cause"], cause)
            if known is not cause:
                _add(known, cause)
    counted.causes = sorted(by_cause.values(), key=lambda cause: cause["dead_letters"], reverse=True)
    return counted


def _add(known: dict[str, Any], cause: dict[str, Any]) -> None:
    known["dead_letters"] += cause["dead_letters"]
    known["types"] = list(dict.fromkeys([*known["types"], *cause["types"]]))
    if cause["newest_at"] > known["newest_at"]:
        known["newest_at"], known["example"] = cause["newest_at"], cause["example"]


def print_causes(counted: Counted, *, limit: int = CAUSES_SHOWN) -> None:
    """Print the causes as a table."""
    shown = counted.causes[:limit]
    rows = [
        (c["dead_letters"], c["cause"], _types(c), c["newest_at"][:19], c["example"]["id"], c["error"]) for c in shown
    ]
    if rows:
        output.table("", ("dead letters", "cause", "type", "newest (UTC)", "such as", "error"), rows)
    if left_out := counted.left_out + len(counted.causes) - len(shown):
        output.line(f"{left_out:,} smaller causes are not shown.")


def plan(counted: Counted, what: str, *, as_json: bool) -> int:
    """Print what an operation would change (--dry-run); return the exit status."""
    if as_json:
        output.json({f"would_{what}": counted.dead_letters, "causes": counted.causes, "left_out": counted.left_out})
    else:
        print_causes(counted)
        output.line(f"{DEAD_LETTER.count(counted.dead_letters)} would be {done(what)}.")
    return 0


def _types(cause: dict[str, Any]) -> str:
    first, *others = cause["types"]
    return f"{first} +{len(others)}" if others else str(first)
