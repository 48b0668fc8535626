"""Where log lines go: standard output, as lines for people or one JSON object a line. No line is lost on its way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

_IGNORE_OS_ERRORS = contextlib.suppress(OSError)
"""A full disk, or a reader that is gone: the work goes on without its log."""
_INDENT = "    "
"""Of every further line: only the first line of an entry begins with a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One thing to log. `kind` names the telemetry event, `event` the id of the event that was being handled."""

    severity: int
    component: str
    kind: str
    message: str
    event: str = ""
    traceback: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


Write = Callable[[LogEntry], None]


def writer(instance: str, format: str) -> Write:
    """Return what writes entries to standard output, in the format `console` or `json`; any thread may call it."""
    return _console(instance) if format == "console" else _json(instance)


def _console(instance: str) -> Write:
    waiting: deque[str] = deque()

    def flush() -> None:
        lines = []
        with contextlib.suppress(IndexError):
            while True:
                lines.append(waiting.popleft())
        if lines:
            put("".join(lines))

    def write(entry: LogEntry) -> None:
        is_first = not waiting
        waiting.append(_for_people(entry, instance))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            flush()
        else:
            if is_first:
                loop.call_soon(flush)  # the entries of one turn of the loop go out together, at once

    return write


def _for_people(entry: LogEntry, instance: str) -> str:
    event = f"event {printable(entry.event)}: " if entry.event else ""
    head = f"{_now()} {logging.getLevelName(entry.severity)} {instance} [{printable(entry.component)}] "
    first, *further = entry.message.splitlines() or [""]
    further = [line for line in (*further, *entry.traceback.splitlines()) if line]
    return "".join([f"{head}{event}{printable(first)}\n", *(f"{_INDENT}{printable(line)}\n" for line in further)])


def _json(instance: str) -> Write:
    render: Any = structlog.processors.JSONRenderer()

    def write(entry: LogEntry) -> None:
        values = {
            **entry.values,
            "event": entry.kind,
            "level": logging.getLevelName(entry.severity).lower(),
            "instance": instance,
            "component": entry.component,
            "message": entry.message,
            **({"event_id": entry.event} if entry.event else {}),
            **({"traceback": entry.traceback} if entry.traceback else {}),
            "timestamp": _now(),
        }
        put(render(None, "", values) + "\n")

    return write


def put(text: str) -> None:
    """Write `text` to standard output; a character that its encoding lacks is escaped."""
    with _IGNORE_OS_ERRORS:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def printable(text: str) -> str:
    """Return `text` without what could forge another line or drive a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
