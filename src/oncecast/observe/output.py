"""The output of log lines: standard output, as text or as one JSON object per line. No line is lost on the way."""

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
"""With a full disk or a closed pipe, the process continues without its log."""
_INDENT = "    "
"""Before further lines of an entry: only its first line begins with a time."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log entry. `kind` names the telemetry event; `event` is the id of the event in progress."""

    severity: int
    component: str
    kind: str
    message: str
    event: str = ""
    traceback: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


Write = Callable[[LogEntry], None]


def writer(instance: str, format: str) -> Write:
    """Return a function that writes entries to standard output, as `console` or `json`; any thread may call it."""
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
                loop.call_soon(flush)  # one write for all entries of a loop turn

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
    """Write `text` to standard output; escape characters that its encoding lacks."""
    with _IGNORE_OS_ERRORS:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def printable(text: str) -> str:
    """Replace characters that could forge a line or control a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
