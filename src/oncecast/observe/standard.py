"""Log lines of the application and of libraries: Python's `logging` and `warnings`, in Oncecast's format."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable

from oncecast.core.tracebacks import is_library, trace_of
from oncecast.observe.context import current_event
from oncecast.observe.output import LogEntry, Write

_CHATTY = (
    "asyncio", "aiobotocore", "aio_pika", "aiormq", "botocore", "boto3", "httpcore", "httpx2", "psycopg", "redis",
    "urllib3", "uvicorn", "websockets",
)  # fmt: skip
"""Libraries that log every request or frame: only their warnings are written, unless their level is set."""


class LinesHandler(logging.Handler):
    """Writes log records that no handler of the application writes to the console.

    Records of libraries below WARNING are dropped, except for loggers whose level the application has set. `packages`
    are the application's own: it may itself be installed as a library.
    """

    def __init__(self, write: Write, packages: Iterable[str] = ()) -> None:
        super().__init__()
        self._write = write
        self._packages = frozenset(packages)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; if its arguments do not fit, write it unformatted."""
        if is_on_console(record.name) or (self._is_of_library(record) and not _is_wanted(record)):
            return
        try:
            text = record.getMessage()
        except Exception as wrong:  # wrong arguments must not lose the line
            text = f"{record.msg} (cannot be formatted: {type(wrong).__name__}: {wrong})"
        if record.name == "py.warnings":
            text = text.partition("\n")[0]  # drop the source line, which is Oncecast's
        error = record.exc_info[1] if record.exc_info else None
        self._write(
            LogEntry(
                severity=record.levelno,
                component=record.name,
                kind="Log",
                message=text,
                event=current_event.get(),
                traceback=self._traceback(record, error),
            )
        )

    def _traceback(self, record: logging.LogRecord, error: BaseException | None) -> str:
        if error is None:
            return record.stack_info or ""
        return "".join(traceback.format_exception(error)) if self._is_of_library(record) else trace_of(error)

    def _is_of_library(self, record: logging.LogRecord) -> bool:
        own = record.name.partition(".")[0] in self._packages or record.name.startswith("oncecast.")
        return not own and is_library(record.pathname)


def capture(write: Write, level: int, packages: Iterable[str] = ()) -> None:
    """Write `logging` and `warnings` from `level` on with `write`, unless the application has configured them."""
    logging.captureWarnings(True)
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, LinesHandler)]:
        root.removeHandler(handler)
    if not any(map(_writes_to_console, root.handlers)) and root.level == logging.WARNING:
        root.setLevel(level)
    root.addHandler(LinesHandler(write, packages))
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(max(level, logging.WARNING))


def is_on_console(name: str) -> bool:
    """Whether a handler of the application writes the records of the logger `name` to the console."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(map(_writes_to_console, logger.handlers)):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _writes_to_console(handler: logging.Handler) -> bool:
    if isinstance(handler, LinesHandler):
        return False
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    is_stream = isinstance(handler, logging.StreamHandler) and handler.stream in streams
    return is_stream or type(handler).__module__.startswith("rich.")


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a library's record is at least a warning, or of a logger whose level is set."""
    if record.levelno >= logging.WARNING:
        return True
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        if logger.level != logging.NOTSET:
            return True
        logger = logger.parent
    return False
