"""Records of the application and libraries are written in Oncecast's format, once, with the event in progress."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from oncecast import Event
from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.clock import SYSTEM_CLOCK
from oncecast.observe.context import handling
from oncecast.observe.output import LogEntry
from oncecast.observe.standard import LinesHandler, capture
from tests.support.arrivals import arrivals


@pytest.fixture
def entries() -> Iterator[list[LogEntry]]:
    """What is written while `logging` is captured; afterwards it is as before."""
    found: list[LogEntry] = []
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    capture(found.append, logging.INFO, ["installed"])
    yield found
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def of_library(name: str, level: int) -> logging.LogRecord:
    return logging.LogRecord(name, level, "/x/site-packages/lib/a.py", 1, "hello", None, None)


def test_a_line_of_users_code_names_the_event_that_is_handled(entries: list[LogEntry]) -> None:
    with handling(["o-1"]):
        logging.getLogger("shop.stock").info("reserved %s", 3)
    logging.info("at rest")
    first, second = entries
    assert (first.component, first.severity, first.message, first.event) == (
        "shop.stock",
        logging.INFO,
        "reserved 3",
        "o-1",
    )
    assert (second.component, second.message, second.event) == ("root", "at rest", "")


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_handlers_name_their_event_in_threads_too(kind: str, entries: list[LogEntry]) -> None:
    app = App()

    async def note(event: Event) -> None:
        logging.warning("noted")

    def note_plain(event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        logging.warning("noted")

    app.on("order")(note if kind == "async" else note_plain)
    work = arrivals(1, type="order")
    work[0].raw = work[0].raw.__class__(Event.new("order", id="1", source="/s").to_json())
    options = RunOptions(clock=SYSTEM_CLOCK, timeout_s=5)
    await app.handle(work, object(), options)  # type: ignore[arg-type]
    assert [(entry.message, entry.event) for entry in entries] == [("noted", "1")]


def test_the_level_is_respected(entries: list[LogEntry]) -> None:
    logging.getLogger("shop").debug("details")
    assert entries == []


def test_warnings_are_one_line(entries: list[LogEntry]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    [entry] = entries
    assert (entry.component, entry.severity) == ("py.warnings", logging.WARNING)
    assert entry.message.endswith("UserWarning: old")


def test_libraries_log_only_warnings_unless_their_level_is_set(entries: list[LogEntry]) -> None:
    for name in ("lib", "installed.part"):
        logging.getLogger(name).handle(of_library(name, logging.INFO))
    logging.getLogger("lib").handle(of_library("lib", logging.WARNING))
    logging.getLogger("wanted").setLevel(logging.INFO)
    logging.getLogger("wanted.part").handle(of_library("wanted.part", logging.INFO))
    assert [(entry.component, entry.severity) for entry in entries] == [
        ("installed.part", logging.INFO),
        ("lib", logging.WARNING),
        ("wanted.part", logging.INFO),
    ]


@pytest.mark.parametrize("name", ["", "shop"])
def test_what_users_write_to_the_console_themselves_is_not_written_twice(name: str, entries: list[LogEntry]) -> None:
    theirs = logging.StreamHandler(sys.stderr)
    logging.getLogger(name).addHandler(theirs)
    try:
        logging.getLogger("shop.stock").warning("hello")
    finally:
        logging.getLogger(name).removeHandler(theirs)
    assert entries == []


def test_capturing_twice_writes_once(entries: list[LogEntry]) -> None:
    capture(entries.append, logging.INFO)
    logging.warning("hello")
    assert len(entries) == 1
    assert sum(isinstance(handler, LinesHandler) for handler in logging.getLogger().handlers) == 1


def test_an_error_is_logged_with_the_users_frames_only(entries: list[LogEntry]) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    [entry] = entries
    assert entry.message == "failed"
    assert entry.traceback.startswith(f'  File "{__file__}", line ')
    assert entry.traceback.endswith("ValueError: no")


def test_a_line_that_cannot_be_formatted_is_written_unformatted(entries: list[LogEntry]) -> None:
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, "%d left", ("x",), None)
    LinesHandler(entries.append).handle(record)
    assert [entry.message.partition(":")[0] for entry in entries] == ["%d left (cannot be formatted"]
