"""The common parts of the commands about dead letters and conflicts: read pages, choose, confirm, change, report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.core.errors import ConfigError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

REPLAY_AT_ONCE = 10
REPLAY_DEADLINE_S = 900.0
CHANGE_AT_ONCE = 500
FAILURES_SHOWN = 20
INTERRUPTED_STATUS = 130
T = TypeVar("T")

All = Annotated[bool, Parameter(negative=(), group="Selection")]
Yes = Annotated[bool, Parameter(negative=(), help="Do not ask for confirmation before discarding several.")]


@dataclass(frozen=True, slots=True)
class Entries:
    """A kind of entries that the API lists, such as dead letters; `key` is the field that names an entry."""

    noun: str
    key: str
    how_to_look: str
    """What to do before discarding several."""
    undo: str
    """What a report about discarded entries ends with."""

    @property
    def path(self) -> str:
        """The path of the list."""
        return f"/api/{self.noun.replace(' ', '-')}s"

    def path_of(self, name: str) -> str:
        """Return the path of one entry."""
        return f"{self.path}/{quote(name, safe='')}"

    def count(self, number: int) -> str:
        """Return the number with its noun: "1 dead letter", "2 dead letters"."""
        return f"{number:,} {self.noun}{'' if number == 1 else 's'}"

    def list(self, asked: AdminClient, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the entries of a list, newest first."""
        for page in pages(asked, self.path, query):
            yield from page[f"{self.noun.replace(' ', '_')}s"]

    def post(self, asked: AdminClient, what: str, body: object, **options: Any) -> dict[str, Any]:
        """Request a change and return the answer."""
        answer: dict[str, Any] = asked.ask("POST", f"{self.path}/{what}", body=msgspec.json.encode(body), **options)
        return answer

    def confirm(self, number: int) -> None:
        """Ask for confirmation to discard several; raise ConfigError unless the answer is yes."""
        if not sys.stdin.isatty():
            raise ConfigError(f"{self.count(number)} would be discarded: say --yes, or {self.how_to_look}")
        sys.stderr.write(f"Discard {self.count(number)}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError("nothing is discarded")

    def change(self, asked: AdminClient, what: str, bodies: Iterable[Mapping[str, Any]], *, as_json: bool) -> int:
        """Send the requests, each until its selection is empty; print the result and return the exit status."""
        changed, not_done, interrupted = 0, 0, False
        failures: list[dict[str, Any]] = []
        try:
            for body in bodies:
                mark: str | None = None
                while True:
                    answer = self.post(asked, what, body if mark is None else {**body, "after": mark})
                    changed += answer["done"]
                    not_done += len(answer["not_done"])
                    failures += answer["not_done"][: FAILURES_SHOWN - len(failures)]
                    if (mark := answer.get("next")) is None:
                        break
        except KeyboardInterrupt:
            interrupted = True
            output.error("interrupted; the rest is as it was, or was being asked for")
        if as_json:
            output.json({done(what): changed, f"not_{done(what)}": not_done, "failures": failures})
        else:
            for failure in failures:
                output.note(f"{failure[self.key]}: {failure['error']}")
            undo = self.undo if what == "discard" and changed else ""
            output.line(f"{self.count(changed)} {done(what)}{undo}.")
        if interrupted:
            return INTERRUPTED_STATUS
        return 1 if not_done else 0


DEAD_LETTER = Entries(
    "dead letter", "id", "look first with --dry-run", "; 'oncecast dead-letters restore' brings them back"
)
CONFLICT = Entries("conflict", "cursor", "look at them first", "")


def pages(asked: AdminClient, path: str, query: Mapping[str, Any], kind: Any = Any) -> Iterator[Any]:
    """Yield the pages of a list. New and closed entries in the meantime disturb no page."""
    mark: str | None = None
    while True:
        page = asked.ask("GET", path, query={**query, "after": mark}, kind=kind)
        yield page
        mark = page["next"] if isinstance(page, dict) else page.next
        if mark is None:
            return


def done(what: str) -> str:
    """Return the past participle of a verb."""
    return f"{what.removesuffix('e')}ed"


def parts(values: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `values` in parts of up to `size`."""
    left = iter(values)
    while part := list(islice(left, size)):
        yield part


def check_limit(limit: int) -> None:
    """Raise ConfigError for an invalid --limit."""
    if limit < 1:
        raise ConfigError(f"invalid value for --limit: {limit} (expected a whole number, 1 or more)")


def failed(name: str, result: Mapping[str, Any]) -> str:
    """Return the line about a replay that stored nothing."""
    return f"{name}: {result['outcome'].replace('_', ' ')}: {result['error']}"


def indented(value: Any) -> str:
    """Return JSON, indented to stand next to a first column of ten characters."""
    lines = msgspec.json.format(msgspec.json.encode(value), indent=2).decode().splitlines()
    return "\n          ".join(output.printable(line) for line in lines)
