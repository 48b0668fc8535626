"""Telemetry events as log lines: text for a console, or one JSON object per line for log shippers."""

from __future__ import annotations

from collections.abc import Iterable
from logging import DEBUG, ERROR, INFO, WARNING, getLevelNamesMapping
from typing import Any

import msgspec

from oncecast.core import telemetry as events
from oncecast.core.telemetry import Record, TelemetryEvent
from oncecast.observe.output import LogEntry, Write, printable, writer
from oncecast.observe.standard import capture

_LINES: dict[tuple[str, int], dict[type[TelemetryEvent], str]] = {
    ("process", INFO): {
        events.ProcessStarted: "▶️ Oncecast {what} {version} started in {instance}: pid {pid}, {address}, {serving}",
        events.Stopping: "",
        events.Stopped: "",
    },
    ("process", WARNING): {
        events.StartFailed: "❌ Cannot start {instance} yet: {error}; trying again in {delay_s:g} s,"
        " retries left: {retries_left}",
        events.StandbyEntered: "⏸️ Standby in {instance}: {reason}",
        events.LifespanCutShort: "⚠️ Lifespan {name} of {instance} did not end within {after_s:g} s (DRAIN_TIMEOUT):"
        " it was cut short",
        events.LoopBlocked: "⚠️ {code} has blocked the event loop of {instance} for {blocked_s:g} s, at {at};"
        " make it a plain 'def', which runs in a thread, or call asyncio.to_thread",
    },
    ("journal", DEBUG): {events.Accepted: ""},
    ("journal", INFO): {events.JournalOpened: ""},
    ("journal", WARNING): {
        events.JournalFilling: "⚠️ Journal of {instance} is {percent} % full of events that {group} has not processed;"
        " see 'oncecast groups list'",
        events.GroupExpired: "⚠️ Group {group} expired in {instance}: no listener joined it for GROUP_EXPIRES;"
        " it holds no events back any more",
    },
    ("journal", ERROR): {
        events.JournalFailed: "❌ Journal of {instance} accepts nothing: {error}",
        events.JournalDamaged: "❌ Journal of {instance} is damaged: {error}; run 'oncecast journal check'",
    },
    ("http", DEBUG): {
        events.AccessRefused: "⚠️ Refused access at {instance} with {status}: {reason}",
        events.ConnectionRefused: "⚠️ Refused a connection at {instance} with {status}: {reason}",
    },
    ("http", INFO): {events.OperatorActed: "· Operator at {client} asked {instance} to {action}: {count} done"},
    ("http", WARNING): {events.PublicationRefused: ""},
    ("redis", WARNING): {
        events.ForeignValues: "⚠️ {count} keys in Redis had values that are not Oncecast's: {instance} has overwritten"
        " them (the first is {key!r} with {value}); does another application use REDIS_URL?",
    },
    ("broadcast", DEBUG): {events.SubscriberJoined: "", events.SubscriberLeft: ""},
    ("feed", INFO): {
        events.Connected: "✅ Connected to producer in {instance}",
        events.ConnectingAgain: "🔄 Reconnecting to WebSocket in {instance}...",
        events.Received: "✅ Received {events} in {instance}",
    },
    ("feed", WARNING): {
        events.Disconnected: "❌ Disconnected from producer in {instance} ({reason})",
        events.Reconnecting: "🔄 Attempting to reconnect in {delay_ms}ms (attempt {attempt}) in {instance}",
    },
    ("events", DEBUG): {events.HandlerRan: "", events.StationTook: ""},
    ("events", INFO): {
        events.Started: "✅ Event processing started for {events} at {instance}",
        events.Persisted: "✅ Persisted {subject} in instance {instance}{range}{retried}",
        events.Duplicates: "⚠️ Duplicate {events} at {instance}",
        events.ConflictReplayed: "✅ Replayed the conflict {cursor} as event {id}: stored by {instance}",
        events.ConflictsDiscarded: "· Discarded {count} conflicts in {instance}; their rows are kept",
    },
    ("events", WARNING): {
        events.Quarantined: "⚠️ Quarantined event {id} at {instance}: {takeovers} processes died while handling it;"
        " running it alone",
        events.ConflictsFound: "⚠️ Conflict: other content under a used identity, {events} at {instance}",
        events.ProcessingFailed: "❌ Processing failed for event {id} at {instance}, retries left: {retries_left}"
        " ({error})",
        events.InsertFailed: "❌ DB insert failed for {id}, retries left: {retries_left} ({error})",
        events.HandlersBlocked: "⚠️ Events for plain 'def' handlers wait in {instance}: {error}",
        events.ConflictReplayFailed: "❌ Replay of the conflict {cursor} failed at {instance}: it stays open"
        " ({error})",
        events.TakenOver: "✅ Took over {count} events of dead process {owner} in {instance}",
    },
    ("events", ERROR): {events.DeadLettered: "❌ Event {id} {what_happened} in {instance} ({error})"},
    ("cursor", DEBUG): {events.CursorSaved: ""},
    ("cursor", WARNING): {
        events.GapNoted: "⚠️ Events {first} to {last} of journal {journal} were deleted before {instance} could read"
        " them",
    },
    ("cursor", INFO): {
        events.ServerReplaced: "🔄 PostgreSQL was restarted: {instance} reads journal {journal} again after {after}",
    },
    ("cursor", ERROR): {
        events.RowsMissing: "❌ PostgreSQL has lost events: {instance} reads journal {journal} again after {after}",
    },
    ("outbox", INFO): {events.EmissionsRelayed: "✅ Published {count} emitted events from {instance}"},
    ("outbox", WARNING): {events.OutboxBlocked: "⚠️ Emitted events wait in the outbox of {instance}: {error}"},
    ("outbox", ERROR): {
        events.EmissionDropped: "❌ No producer accepts an emitted event: {error}; it stays in the table outbox",
    },
    ("dead-letters", INFO): {
        events.DeadLettersLogged: "📝 Logged failed event {id} to {file}",
        events.Sent: "📤 Sent dead letter {id} to {broker}",
        events.Replayed: "✅ Replayed {id}: stored by {instance}",
        events.DeadLettersDiscarded: "· Discarded {count} dead letters in {instance}; their rows are kept",
        events.Restored: "· Restored {count} dead letters in {instance}",
    },
    ("dead-letters", WARNING): {
        events.ForwardingRefused: "⚠️ {broker} refused dead letter {id} of {instance} ({error}); it will be retried",
        events.ReplayFailed: "❌ Replay of {id} failed at {instance}: it remains a dead letter ({error})",
    },
    ("dead-letters", ERROR): {
        events.DeadLetterLogFailed: "❌ Dead letters cannot be logged in {instance}: {error}; their rows are safe",
    },
    ("", INFO): {
        events.DependencyTried: "🔄 Connecting to {dependency} in {instance}...",
        events.DependencyReady: "✅ {dependency} ready in {instance}",
    },
    ("retention", INFO): {events.Pruned: "· Pruned {count} old events in {instance}"},
}
"""The console line of each telemetry event, by component and severity. An empty text lists the fields.

A text names fields of the event and values of `_values`. Dependencies have their names as components.
"""
_LINE_OF = {kind: (*place, text) for place, texts in _LINES.items() for kind, text in texts.items()}
_LOST = {
    "redis": "⚠️ Redis unavailable in {instance}: duplicate risk ({error})",
    "database": "❌ PostgreSQL unavailable in {instance}: events wait ({error})",
    "broker": "❌ Dead letters cannot be sent in {instance}: {error}; they wait in PostgreSQL",
}
_DEPENDENCIES = {"redis": "Redis", "database": "PostgreSQL", "broker": "Broker of dead letters"}
_TERMINAL_CAUSES: dict[events.TerminalCause, str] = {
    "retries": "failed after all retries",
    "rejected": "was rejected by its handler",
    "data": "has data that does not fit its handler",
    "crashes": "crashed the processes that handled it, and is not tried again",
}
"""The reason in the log line of a dead letter, by its cause."""


def start_logging(
    instance: str, *, format: str = "console", level: str = "info", packages: Iterable[str] = ()
) -> Record:
    """Return what `log_telemetry` does; also write log lines of the application and libraries in this format.

    `packages` are the names of the application's own packages.
    """
    write = writer(instance, format)
    capture(write, getLevelNamesMapping()[level.upper()], packages)
    return _log_function(write, instance, level)


def log_telemetry(instance: str, *, format: str = "console", level: str = "info") -> Record:
    """Return a function that writes each telemetry event as a line to standard output."""
    return _log_function(writer(instance, format), instance, level)


def _log_function(write: Write, instance: str, level: str) -> Record:
    minimum = getLevelNamesMapping()[level.upper()]

    def record(telemetry: TelemetryEvent) -> None:
        component, severity, _ = _line_of(telemetry)
        if severity >= minimum:
            values = msgspec.structs.asdict(telemetry)
            traceback = values.pop("traceback", "")
            values.pop("waited_s", None)  # for metrics
            kind, message = type(telemetry).__name__, console_line(telemetry, instance)
            write(LogEntry(severity, component, kind, message, traceback=traceback, values=values))

    return record


def _line_of(telemetry: TelemetryEvent) -> tuple[str, int, str]:
    """Return the component, the severity and the text of the line."""
    if isinstance(telemetry, events.DependencyLost):
        return telemetry.name, ERROR, _LOST[telemetry.name]
    component, severity, text = _LINE_OF[type(telemetry)]
    if isinstance(telemetry, events.DependencyTried | events.DependencyReady):
        component = telemetry.name
    if isinstance(telemetry, events.Received | events.Started | events.Duplicates) and telemetry.count > 1:
        severity = DEBUG  # under load, "Persisted" is the line that counts
    return component, severity, text


def console_line(telemetry: TelemetryEvent, instance: str) -> str:
    """Return the console line of a telemetry event, without control characters."""
    values = msgspec.structs.asdict(telemetry)
    if text := _line_of(telemetry)[2]:
        error = values.get("error", "").partition("\n")[0]
        text = text.format(**{**values, "instance": instance, "error": error, **_values(telemetry)})
    else:
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        text = f"· {_words(type(telemetry).__name__)} in {instance}" + (f": {listed}" if listed else "")
    return printable(text.partition("\n")[0])


def _values(telemetry: TelemetryEvent) -> dict[str, Any]:
    """Return values for a text in addition to the fields."""
    match telemetry:
        case events.BatchEvent():
            is_one = telemetry.count == 1
            subject = telemetry.first_id if is_one else f"{telemetry.count} events"
            ids = "" if is_one else f" ({telemetry.first_id} … {telemetry.last_id})"
            retried = " (after retry)" if getattr(telemetry, "after_retry", False) else ""
            batch = f"event {subject}" if is_one else subject + ids
            return {"subject": subject, "range": ids, "events": batch, "retried": retried}
        case events.DependencyTried(name=name) | events.DependencyReady(name=name):
            return {"dependency": _DEPENDENCIES[name]}
        case events.OperatorActed(client=""):
            return {"client": "?"}
        case events.LoopBlocked(handler=handler, id=id):
            return {"code": f"handler {handler} of event {id}" if handler else "code of the application"}
        case events.Reconnecting(delay_s=delay_s):
            return {"delay_ms": round(delay_s * 1000)}
        case events.DeadLettered(cause=cause):
            return {"what_happened": _TERMINAL_CAUSES[cause]}
        case _:
            return {}


def _words(name: str) -> str:
    """`CursorSaved` → `Cursor saved`."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip().capitalize()
