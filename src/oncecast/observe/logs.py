"""Facts as log lines: for people on a console, or one JSON object a line for log shippers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

from oncecast.core import facts
from oncecast.core.facts import Fact, Observe

_QUIET = (facts.CursorSaved, facts.Accepted, facts.SubscriberJoined, facts.SubscriberLeft)
"""Said at level debug: true every second, or of interest to few."""

_LOUD = (
    facts.DependencyLost,
    facts.Died,
    facts.EmissionRefused,
    facts.FilingFailed,
    facts.JournalFailed,
    facts.RowsMissing,
)
_WARNING = (
    facts.StartFailed,
    facts.Suspected,
    facts.ProcessingFailed,
    facts.ReplayFailed,
    facts.SendingRefused,
    facts.InsertFailed,
    facts.Disconnected,
    facts.Reconnecting,
    facts.Conflicts,
    facts.Rescued,
    facts.Refused,
    facts.JournalFilling,
    facts.GroupExpired,
    facts.GapNoted,
    facts.StandingBy,
    facts.EmissionsHeldUp,
    facts.HandlersHeldUp,
    facts.LifespanCutShort,
)
_SEVERITIES = {
    **dict.fromkeys(_QUIET, logging.DEBUG),
    **dict.fromkeys(_WARNING, logging.WARNING),
    **dict.fromkeys(_LOUD, logging.ERROR),
}
_UNDER_LOAD = (facts.Received, facts.Started, facts.Duplicates)
"""Of several events they are said at level debug: then the line that counts is "Persisted"."""

_GO_ON = contextlib.suppress(OSError)
"""A full disk, or nobody who reads: the work goes on without its log."""

_DEPENDENCIES = {"redis": "Redis", "database": "PostgreSQL", "broker": "the broker of dead letters"}


def log_facts(instance: str, *, format: str = "console", level: str = "info") -> Observe:
    """An observer that writes each fact as a line to standard output."""
    minimum = logging.getLevelNamesMapping()[level.upper()]
    write = _console(instance) if format == "console" else _json(instance)

    def observe(fact: Fact) -> None:
        severity = _severity(fact)
        if severity >= minimum:
            write(fact, severity)

    return observe


def _severity(fact: Fact) -> int:
    if isinstance(fact, _UNDER_LOAD) and fact.count > 1:
        return logging.DEBUG
    return _SEVERITIES.get(type(fact), logging.INFO)


def _console(instance: str) -> Callable[[Fact, int], None]:
    waiting: list[str] = []

    def flush() -> None:
        text = "\n".join(waiting) + "\n"
        waiting.clear()
        with _GO_ON:
            sys.stdout.write(text)
            sys.stdout.flush()

    def write(fact: Fact, _severity: int) -> None:
        is_first = not waiting
        waiting.extend(console_lines(fact, instance))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            flush()
        else:
            if is_first:
                loop.call_soon(flush)  # what is said in a turn of the loop goes out at once

    return write


def _json(instance: str) -> Callable[[Fact, int], None]:
    logger: Any = structlog.wrap_logger(
        structlog.PrintLogger(sys.stdout),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
    )

    def write(fact: Fact, severity: int) -> None:
        with _GO_ON:
            logger.msg(
                type(fact).__name__,
                level=logging.getLevelName(severity).lower(),
                instance=instance,
                message=" ".join(console_lines(fact, instance)),
                **{name: value for name, value in dataclasses.asdict(fact).items() if name != "event"},
            )

    return write


def console_lines(fact: Fact, at: str) -> list[str]:
    """What the console says of `fact` in instance `at`; text of others comes without control characters."""
    return [_printable(line) for line in _lines(fact, at)]


def _lines(fact: Fact, at: str) -> list[str]:
    match fact:  # what is said most often comes first
        case facts.Received():
            return [f"✅ Received {_events(fact, 'event ')} in {at}"]
        case facts.Started():
            return [f"✅ Event processing started for {_events(fact, 'event ')} at {at}"]
        case facts.Persisted():
            retried = " (after retry)" if fact.after_retry else ""
            return [f"✅ Persisted {_count(fact)} in instance {at}{_range(fact)}{retried}"]
        case facts.Duplicates():
            return [f"⚠️ Duplicate {_events(fact, 'event ')} at {at}"]
        case facts.StartFailed():
            wait = f"trying again in {fact.delay_s:g} s, retries left: {fact.retries_left}"
            return [f"❌ Cannot start {at} yet: {fact.error}; {wait}"]
        case facts.JournalFilling():
            told = "'oncecast groups list' tells more"
            return [
                f"⚠️ Journal of {at} is {fact.percent} % full of events that {fact.group} has not processed; {told}"
            ]
        case facts.GroupExpired():
            return [f"⚠️ Group {fact.group} was not seen for so long that {at} keeps no events for it any more"]
        case facts.GapNoted():
            gone = f"{fact.first} to {fact.last} of journal {fact.journal}"
            return [f"⚠️ Events {gone} were gone before {at} could read them"]
        case facts.Pruned():
            return [f"· Pruned {fact.count} old events in {at}"]
        case facts.StandingBy():
            return [f"⏸️ Standing by in {at}: {fact.reason}"]
        case facts.Connected():
            return [f"✅ Connected to producer in {at}"]
        case facts.Disconnected():
            return [f"❌ Disconnected from producer in {at} ({fact.reason})"]
        case facts.Reconnecting():
            delay_ms = round(fact.delay_s * 1000)
            return [f"🔄 Attempting to reconnect in {delay_ms}ms (attempt {fact.attempt}) in {at}"]
        case facts.ConnectingAgain():
            return [f"🔄 Reconnecting to WebSocket in {at}..."]
        case facts.Suspected():
            return [f"⚠️ Event {fact.id} outlived {fact.rescues} holders: it is attempted alone at {at}"]
        case facts.Conflicts():
            return [f"⚠️ Conflict: other content under a used identity, {_events(fact, 'event ')} at {at}"]
        case facts.ProcessingFailed():
            left = f"retries left: {fact.retries_left}"
            return [f"❌ Processing failed for event {fact.id} at {at}, {left} ({fact.error})"]
        case facts.HandlersHeldUp():
            return [f"⚠️ Events for plain 'def' handlers wait in {at}: {fact.error}"]
        case facts.InsertFailed():
            return [f"❌ DB insert failed for {fact.id}, retries left: {fact.retries_left} ({fact.error})"]
        case facts.Died():
            return [f"❌ Event {fact.id} failed after all retries in {at} ({fact.error})"]
        case facts.Filed():
            return [f"📝 Logged failed event {fact.id} to {fact.file}"]
        case facts.FilingFailed():
            return [f"❌ Dead letters cannot be filed in {at}: {fact.error}; their rows are safe"]
        case facts.Sent():
            return [f"📤 Sent dead letter {fact.id} to {fact.broker}"]
        case facts.SendingRefused():
            return [f"⚠️ Dead letter {fact.id} of {at} is refused by {fact.broker} ({fact.error}); tried again later"]
        case facts.Replayed():
            return [f"✅ Replayed {fact.id}: stored by {at}"]
        case facts.ReplayFailed():
            return [f"❌ Replay of {fact.id} failed at {at}: it stays dead ({fact.error})"]
        case facts.EmissionsRelayed():
            return [f"✅ Published {fact.count} events of handlers from {at}"]
        case facts.EmissionsHeldUp():
            return [f"⚠️ Events of handlers wait in the outbox of {at}: {fact.error}"]
        case facts.EmissionRefused():
            return [f"❌ An event of a handler can never be published: {fact.error}; it stays in the table outbox"]
        case facts.Discarded():
            return [f"· Discarded {fact.count} dead letters in {at}; their rows are kept"]
        case facts.Restored():
            return [f"· Restored {fact.count} dead letters in {at}"]
        case facts.LifespanCutShort():
            within = f"within {fact.after_s:g} s (DRAIN_TIMEOUT)"
            return [f"⚠️ Lifespan {fact.name} of {at} did not end {within}: it was cut short"]
        case facts.Rescued():
            return [f"✅ Rescued {fact.count} events of holder {fact.holder} in {at}"]
        case facts.DependencyTried():
            return [f"🔄 Connecting to {_DEPENDENCIES.get(fact.name, fact.name)} in {at}..."]
        case facts.DependencyLost(name="redis"):
            return [f"⚠️ Redis unavailable in {at}: duplicate risk ({fact.error})"]
        case facts.DependencyReady(name="redis"):
            return [f"✅ Redis ready in {at}"]
        case facts.DependencyLost(name="broker"):
            return [f"❌ Dead letters cannot be sent in {at}: {fact.error}; they wait in PostgreSQL"]
        case facts.DependencyReady(name="broker"):
            return [f"✅ Broker of dead letters ready in {at}"]
        case facts.DependencyLost():
            return [f"❌ PostgreSQL unavailable in {at}: events wait ({fact.error})"]
        case facts.DependencyReady():
            return [f"✅ PostgreSQL ready in {at}"]
        case _:
            values = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(fact).items())
            return [f"· {_words(type(fact).__name__)} in {at}" + (f": {values}" if values else "")]


def _count(fact: facts.Batch) -> str:
    return fact.first_id if fact.count == 1 else f"{fact.count} events"


def _range(fact: facts.Batch) -> str:
    return "" if fact.count == 1 else f" ({fact.first_id} … {fact.last_id})"


def _events(fact: facts.Batch, single: str) -> str:
    return f"{single}{fact.first_id}" if fact.count == 1 else f"{fact.count} events{_range(fact)}"


def _words(name: str) -> str:
    """`CursorSaved` → `Cursor saved`."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return words[:1].upper() + words[1:]


def _printable(text: str) -> str:
    """One line, without what could forge another or drive a terminal."""
    line = text.partition("\n")[0]
    return line if line.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in line)
