"""The command `dead-letters edit`: store edited data, from a flag, a file or an editor, next to the original."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.dead_letters.selection import Source
from oncecast.cli.entries import DEAD_LETTER
from oncecast.cli.operate import Either, Json, operator
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError, OncecastError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient


class _Event(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None


class _DeadLetter(msgspec.Struct):
    """The data that the editor opens with; not decoded, so that numbers stay as they were written."""

    source: str
    event: _Event
    edited: bool
    edited_data: msgspec.Raw

    @property
    def data(self) -> bytes:
        return bytes(self.edited_data if self.edited else self.event.data)


def edit(
    id: str,
    /,
    *,
    with_: Annotated[str | None, Parameter(name="--with", allow_leading_hyphen=True, show_default=False)] = None,
    file: Annotated[Path | None, Parameter(show_default=False)] = None,
    reset: Annotated[bool, Parameter(negative=())] = False,
    source: Source = None,
    listener: Either = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> None:
    """Edit the data of a dead letter. Replays use the edited data, and the original is kept.

    Without --with, --file or --reset, $VISUAL or $EDITOR opens with the current data. If it is not changed, nothing
    happens.

    Parameters
    ----------
    id
        The event's id.
    with_
        The new data: JSON, @FILE, or - for standard input.
    file
        The file with the new data.
    reset
        Restore the data as it was received.
    """
    if (with_ is not None) + (file is not None) + reset > 1:
        raise ConfigError("--with, --file and --reset exclude each other")
    content = _given(with_, file)
    as_json = output.wants_json(json)
    with operator("listener", listener, data) as asked:
        if reset:
            _reset(asked, id, source)
        elif content is not None:
            _put(asked, id, source, content)
        elif not _edit(asked, id, source):
            output.line(f"{output.printable(id)} is unchanged.")
            return
        if as_json:
            output.json(asked.ask("GET", DEAD_LETTER.path_of(id), query={"source": source}))
            return
    shown = output.printable(shlex.quote(id))
    state = "is as it was received" if reset else "is edited"
    output.line(f"{output.printable(id)} {state}; 'oncecast dead-letters replay {shown}' processes it.")


def _given(text: str | None, file: Path | None) -> bytes | None:
    """Return the data that the flags give, or None. Raises ConfigError if it is not JSON."""
    name = "--with" if file is None else "--file"
    try:
        if file is not None:
            content = file.read_bytes()
        elif text is None:
            return None
        elif text == "-":
            content = sys.stdin.buffer.read()
        else:
            content = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {error.filename!r}: {error.strerror}") from None
    if fault := fault_of(content):
        raise ConfigError(f"{name}: {fault}")
    return content


def fault_of(content: bytes) -> str | None:
    """Return why `content` is not JSON, and where; None if it is."""
    try:
        content.decode()
        msgspec.json.decode(content)
    except UnicodeDecodeError as error:
        return f"this is not UTF-8: {_place(content, error.start)}"
    except RecursionError:
        return "this is nested too deeply"
    except msgspec.DecodeError as error:
        reason, _, rest = str(error).removeprefix("JSON is malformed: ").rpartition(" (byte ")
        if reason:
            byte = int(rest.rstrip(")")) - (reason == "trailing characters")  # msgspec reports it one byte too far
            return f"this is not JSON: {reason}, {_place(content, byte)}"
        return f"this is not JSON: it ends too early, {_place(content, len(content))}"
    return None


def _place(content: bytes, byte: int) -> str:
    lines = content[:byte].split(b"\n")
    return f"line {len(lines)}, column {len(lines[-1].decode(errors='replace')) + 1}"


def _edit(asked: AdminClient, id: str, source: str | None) -> bool:
    """Open the editor; return whether the data changed. If it cannot be stored, keep the file and name it."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("vi" if sys.stdin.isatty() else None)
    if command is None:
        raise ConfigError("pass --with JSON, --file FILE or --reset, or set EDITOR to edit the current data")
    dead_letter: _DeadLetter = asked.ask("GET", DEAD_LETTER.path_of(id), query={"source": source}, kind=_DeadLetter)
    if dead_letter.event.data_base64 is not None and not dead_letter.edited:
        raise ConfigError("this event's data is binary: pass --with JSON or --file FILE")
    before = msgspec.json.format(dead_letter.data, indent=2) + b"\n"
    descriptor, name = tempfile.mkstemp(prefix="dead-letter-", suffix=".json")
    path = Path(name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(before)
    _run(command, path)
    content = path.read_bytes()
    fault = fault_of(content)
    if fault is None and _compact(content) == _compact(before):
        path.unlink()
        return False
    again = f"your text is kept: correct it, then run 'oncecast dead-letters edit {shlex.quote(id)} --file {path}'"
    if fault is not None:
        raise ConfigError(f"nothing is stored: {fault}; {again}")
    try:
        _put(asked, id, dead_letter.source, content)
    except OncecastError as error:
        raise ConfigError(f"{error}; {again}") from None
    path.unlink()
    return True


def _run(command: str, path: Path) -> None:
    try:
        status = subprocess.run([*shlex.split(command), str(path)], check=False).returncode  # noqa: S603 - $EDITOR
    except (OSError, ValueError) as error:
        path.unlink()
        raise ConfigError(f"EDITOR: {command[:80]!r} cannot be run: {error}") from None
    if status:
        raise ConfigError(f"nothing is stored: the editor ended with status {status}; your text is in {path}")


def _compact(content: bytes) -> bytes:
    return bytes(msgspec.json.format(content, indent=-1))


def _put(asked: AdminClient, id: str, source: str | None, content: bytes) -> None:
    asked.ask("PUT", DEAD_LETTER.path_of(id), query={"source": source}, body=content)


def _reset(asked: AdminClient, id: str, source: str | None) -> None:
    for failure in DEAD_LETTER.post(asked, "reset", {"events": [{"id": id, "source": source}]})["not_done"]:
        raise ConfigError(f"{failure['id']}: {failure['error']}")
