"""The command `dead-letters export`: one dead letter per line; the file appears only when it is complete."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.dead_letters.selection import Choice, as_of_now, count, query_of
from oncecast.cli.entries import DEAD_LETTER, pages
from oncecast.cli.operate import Either, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.dead_letters import Selection
from oncecast.core.errors import ConfigError
from oncecast.core.event import with_data

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient


class Page(msgspec.Struct):
    """A page of dead letters, not decoded, so that numbers stay as they were written."""

    dead_letters: list[msgspec.Raw]
    next: str | None


class Content(msgspec.Struct):
    """The fields of a dead letter that make its event."""

    event: msgspec.Raw
    edited: bool
    edited_data: msgspec.Raw


def export(
    *ids: str,
    choice: Choice | None = None,
    discarded: Annotated[bool, Parameter(negative=(), group="Selection")] = False,
    output_: Annotated[Path | None, Parameter(name="--output", show_default=False)] = None,
    events: Annotated[bool, Parameter(negative=())] = False,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
) -> None:
    """Write dead letters as NDJSON, newest first: event, edited data, error, traceback, attempts and times.

    Without ids and flags, all dead letters are written.

    Parameters
    ----------
    ids
        The ids of the events.
    discarded
        Discarded dead letters instead of the others.
    output_
        The file, readable by its owner only, created when it is complete; by default standard output.
    events
        Write only the events, with edited data if there is any, in the format of `oncecast send`.
    """
    selections = (choice or Choice()).selections(ids, discarded=discarded)
    with operator("listener", listener, data) as asked:
        selections = as_of_now(asked, selections)
        total = count(asked, selections, limit=1).dead_letters if sys.stderr.isatty() else 0
        written = 0
        with _opened(output_) as write, _progress(total, shown=output_ is not None) as tell:
            for dead_letter in _dead_letters(asked, selections):
                write((_event(dead_letter) if events else msgspec.json.format(dead_letter, indent=-1)) + b"\n")
                written += 1
                tell(written)
    if output_ is not None:
        output.note(f"{DEAD_LETTER.count(written)} written to {output_}.")


def _dead_letters(asked: AdminClient, selections: Sequence[Selection]) -> Iterator[bytes]:
    for selection in selections:
        for page in pages(asked, DEAD_LETTER.path, {**query_of(selection), "whole": "true"}, Page):
            yield from map(bytes, page.dead_letters)


def _event(dead_letter: bytes) -> bytes:
    content = msgspec.json.decode(dead_letter, type=Content)
    raw = bytes(content.event)
    if content.edited:
        raw = with_data(raw, bytes(content.edited_data))
    return bytes(msgspec.json.format(raw, indent=-1))


@contextmanager
def _opened(path: Path | None) -> Iterator[Callable[[bytes], Any]]:
    """Yield a function that writes a line. The file is renamed into place at the end, or removed on an error."""
    if path is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError(f"--output: cannot write in {str(path.parent)!r}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {str(path)!r}: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal and the dead letters go elsewhere."""
    if not sys.stderr.isatty() or not (shown or not sys.stdout.isatty()):
        yield lambda _written: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("exporting", total=total)
        yield lambda written: progress.update(task, completed=written)
