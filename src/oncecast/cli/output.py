"""What commands print: tables and sentences for people, JSON for programs, errors on one line of stderr."""

from __future__ import annotations

import codecs
import io
import json as standard_json
import sys
from collections.abc import Container, Sequence
from typing import Any, Literal

import msgspec

PREFIX = "oncecast: "
"""How a line begins that tells an error."""


def wants_json(flag: bool | None) -> bool:
    """Whether to print JSON: as `--json` or `--no-json` say, else when stdout is not a terminal."""
    return not sys.stdout.isatty() if flag is None else flag


def escape_what_streams_lack() -> None:
    """Have characters that standard output or error cannot encode written as JSON escapes, in text as in JSON."""
    codecs.register_error("oncecast.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="oncecast.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return standard_json.dumps(error.object[error.start : error.end])[1:-1], error.end


def line(text: str) -> None:
    """Print one line on stdout, as it is, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def json(value: Any) -> None:
    """Print `value`, anything msgspec encodes, as one line of JSON."""
    line(msgspec.json.encode(value).decode())


def note(text: str) -> None:
    """Tell people something that is not the result: one line on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def error(message: object) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit status 1."""
    note(f"{PREFIX}{message}")
    return 1


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], whole: Container[str] = ()) -> None:
    """Print a plain table. A column whose cells are all numbers stands to the right; those in `whole` do not fold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        side: Literal["left", "right"] = "right" if numeric else "left"
        view.add_column(column, justify=side, overflow="fold", no_wrap=column in whole)
    for row in rows:
        view.add_row(*(Text(cell(value)) for value in row))
    Console(highlight=False).print(view)


def cell(value: object) -> str:
    """A value as people read it: 12,345; yes; a dash for nothing; control characters made harmless."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """`text` on one line, with whatever could move a terminal's cursor or colour it replaced."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
