"""Print what commands output: tables and sentences, or JSON; errors as one line on stderr."""

from __future__ import annotations

import codecs
import io
import json as standard_json
import sys
from collections.abc import Container, Sequence
from typing import Any, Literal

import msgspec

PREFIX = "oncecast: "
"""The prefix of an error line."""


def wants_json(flag: bool | None) -> bool:
    """Return whether to print JSON: by `--json` or `--no-json`, else if stdout is not a terminal."""
    return not sys.stdout.isatty() if flag is None else flag


def escape_what_streams_lack() -> None:
    """Write characters that stdout or stderr cannot encode as JSON escapes, in text and JSON."""
    codecs.register_error("oncecast.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="oncecast.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return standard_json.dumps(error.object[error.start : error.end])[1:-1], error.end


def line(text: str) -> None:
    """Print one line on stdout, unchanged, and flush."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def clear() -> None:
    """Clear the terminal, if stdout is one."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J\x1b[3J")


def json(value: Any) -> None:
    """Print `value`, which msgspec can encode, as one line of JSON."""
    line(msgspec.json.encode(value).decode())


def note(text: str) -> None:
    """Print a message that is not part of the result: one line on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def error(message: object) -> int:
    """Print an error as one line on stderr; return the exit status 1."""
    note(f"{PREFIX}{message}")
    return 1


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], whole: Container[str] = ()) -> None:
    """Print a plain table. Columns of numbers are right-aligned; columns in `whole` do not wrap."""
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
    """Return a value as text: 12,345; yes; a dash for None; control characters replaced."""
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
    """Return `text` on one line, with control characters and escape sequences replaced."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
