"""Telemetry events as log lines: text for a console, or one JSON object per line for log shippers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

from oncecast.core import telemetry as telemetry_events
from oncecast.core.telemetry import Record, TelemetryEvent
from oncecast.observe.output import LogEntry, Write, printable, writer
from oncecast.observe.standard import capture

_QUIET = (
    telemetry_events.CursorSaved,
    telemetry_events.Accepted,
    telemetry_events.SubscriberJoined,
    telemetry_events.SubscriberLeft,
    telemetry_events.ConnectionRefused,
    telemetry_events.AccessRefused,
)
"""Logged at level debug: frequent, or of interest to few."""

_LOUD = (
    telemetry_events.DependencyLost,
    telemetry_events.DeadLettered,
    telemetry_events.EmissionDropped,
    telemetry_events.DeadLetterLogFailed,
    telemetry_events.JournalDamaged,
    telemetry_events.JournalFailed,
    telemetry_events.RowsMissing,
)
_WARNING = (
    telemetry_events.StartFailed,
    telemetry_events.Quarantined,
    telemetry_events.ProcessingFailed,
    telemetry_events.ReplayFailed,
    telemetry_events.ConflictReplayFailed,
    telemetry_events.ForwardingRefused,
    telemetry_events.InsertFailed,
    telemetry_events.Disconnected,
    telemetry_events.Reconnecting,
    telemetry_events.ConflictsFound,
    telemetry_events.TakenOver,
    telemetry_events.PublicationRefused,
    telemetry_events.JournalFilling,
    telemetry_events.GroupExpired,
    telemetry_events.GapNoted,
    telemetry_events.StandbyEntered,
    telemetry_events.OutboxBlocked,
    telemetry_events.HandlersBlocked,
    telemetry_events.LifespanCutShort,
    telemetry_events.LoopBlocked,
    telemetry_events.ForeignValues,
)
_SEVERITIES = {
    **dict.fromkeys(_QUIET, logging.DEBUG),
    **dict.fromkeys(_WARNING, logging.WARNING),
    **dict.fromkeys(_LOUD, logging.ERROR),
}
_UNDER_LOAD = (telemetry_events.Received, telemetry_events.Started, telemetry_events.Duplicates)
"""Logged at level debug if they are about several events: then "Persisted" is the line that counts."""

_COMPONENTS: dict[str, tuple[type[TelemetryEvent], ...]] = {
    "process": (
        telemetry_events.ProcessStarted,
        telemetry_events.StartFailed,
        telemetry_events.StandbyEntered,
        telemetry_events.Stopping,
        telemetry_events.Stopped,
        telemetry_events.LifespanCutShort,
        telemetry_events.LoopBlocked,
    ),
    "journal": (
        telemetry_events.JournalDamaged,
        telemetry_events.JournalOpened,
        telemetry_events.Accepted,
        telemetry_events.JournalFailed,
        telemetry_events.JournalFilling,
        telemetry_events.GroupExpired,
    ),
    "http": (
        telemetry_events.PublicationRefused,
        telemetry_events.AccessRefused,
        telemetry_events.ConnectionRefused,
        telemetry_events.OperatorActed,
    ),
    "redis": (telemetry_events.ForeignValues,),
    "broadcast": (telemetry_events.SubscriberJoined, telemetry_events.SubscriberLeft),
    "feed": (
        telemetry_events.Connected,
        telemetry_events.Disconnected,
        telemetry_events.Reconnecting,
        telemetry_events.ConnectingAgain,
        telemetry_events.Received,
    ),
    "cursor": (telemetry_events.CursorSaved, telemetry_events.RowsMissing, telemetry_events.GapNoted),
    "outbox": (telemetry_events.EmissionsRelayed, telemetry_events.OutboxBlocked, telemetry_events.EmissionDropped),
    "dead-letters": (
        telemetry_events.DeadLettersLogged,
        telemetry_events.DeadLetterLogFailed,
        telemetry_events.Sent,
        telemetry_events.ForwardingRefused,
        telemetry_events.Replayed,
        telemetry_events.ReplayFailed,
        telemetry_events.DeadLettersDiscarded,
        telemetry_events.Restored,
    ),
    "retention": (telemetry_events.Pruned,),
}
_COMPONENT_OF = {kind: component for component, kinds in _COMPONENTS.items() for kind in kinds}
_OF_EVENTS = "events"
"""The component of all other telemetry events: what happens to events in a listener."""

_TERMINAL_CAUSES: dict[telemetry_events.TerminalCause, str] = {
    "retries": "failed after all retries",
    "rejected": "was rejected by its handler",
    "data": "has data that does not fit its handler",
    "crashes": "crashed the processes that handled it, and is not tried again",
}
"""The reason in the log line of a dead letter, by its cause."""
_DEPENDENCIES = {"redis": "Redis", "database": "PostgreSQL", "broker": "the broker of dead letters"}


def start_logging(
    instance: str, *, format: str = "console", level: str = "info", packages: Iterable[str] = ()
) -> Record:
    """Return what `log_telemetry` does; also write log lines of the application and libraries in this format.

    `packages` are the names of the application's own packages.
    """
    write = writer(instance, format)
    capture(write, logging.getLevelNamesMapping()[level.upper()], packages)
    return _log_function(write, instance, level)


def log_telemetry(instance: str, *, format: str = "console", level: str = "info") -> Record:
    """Return a function that writes each telemetry event as a line to standard output."""
    return _log_function(writer(instance, format), instance, level)


def _log_function(write: Write, instance: str, level: str) -> Record:
    minimum = logging.getLevelNamesMapping()[level.upper()]

    def record(telemetry: TelemetryEvent) -> None:
        severity = _severity(telemetry)
        if severity >= minimum:
            values = {name: value for name, value in dataclasses.asdict(telemetry).items() if name != "event"}
            traceback = values.pop("traceback", "")
            message = " ".join(console_lines(telemetry, instance))
            write(
                LogEntry(
                    severity=severity,
                    component=_component(telemetry),
                    kind=type(telemetry).__name__,
                    message=message,
                    traceback=traceback,
                    values=values,
                )
            )

    return record


def _component(telemetry: TelemetryEvent) -> str:
    if isinstance(
        telemetry,
        telemetry_events.DependencyLost | telemetry_events.DependencyTried | telemetry_events.DependencyReady,
    ):
        return telemetry.name
    return _COMPONENT_OF.get(type(telemetry), _OF_EVENTS)


def _severity(telemetry: TelemetryEvent) -> int:
    if isinstance(telemetry, _UNDER_LOAD) and telemetry.count > 1:
        return logging.DEBUG
    return _SEVERITIES.get(type(telemetry), logging.INFO)


def console_lines(telemetry: TelemetryEvent, at: str) -> list[str]:
    """Return the console lines of a telemetry event of instance `at`, without control characters."""
    error = getattr(telemetry, "error", "")
    if "\n" in error:
        telemetry = dataclasses.replace(telemetry, error=error.partition("\n")[0])  # type: ignore[call-arg]
    return [_printable(line) for line in _lines(telemetry, at)]


def _lines(telemetry: TelemetryEvent, at: str) -> list[str]:
    match telemetry:  # the most frequent first
        case telemetry_events.Received():
            return [f"✅ Received {_events(telemetry, 'event ')} in {at}"]
        case telemetry_events.Started():
            return [f"✅ Event processing started for {_events(telemetry, 'event ')} at {at}"]
        case telemetry_events.Persisted():
            retried = " (after retry)" if telemetry.after_retry else ""
            return [f"✅ Persisted {_count(telemetry)} in instance {at}{_range(telemetry)}{retried}"]
        case telemetry_events.Duplicates():
            return [f"⚠️ Duplicate {_events(telemetry, 'event ')} at {at}"]
        case telemetry_events.ProcessStarted():
            where = f"pid {telemetry.pid}, {telemetry.address}, {telemetry.serving}"
            return [f"▶️ Oncecast {telemetry.what} {telemetry.version} started in {at}: {where}"]
        case telemetry_events.StartFailed():
            wait = f"trying again in {telemetry.delay_s:g} s, retries left: {telemetry.retries_left}"
            return [f"❌ Cannot start {at} yet: {telemetry.error}; {wait}"]
        case telemetry_events.JournalDamaged():
            return [f"❌ Journal of {at} is damaged: {telemetry.error}; run 'oncecast journal check'"]
        case telemetry_events.JournalFailed():
            return [f"❌ Journal of {at} accepts nothing: {telemetry.error}"]
        case telemetry_events.JournalFilling():
            hint = "see 'oncecast groups list'"
            return [
                f"⚠️ Journal of {at} is {telemetry.percent} % full of events that {telemetry.group}"
                f" has not processed; {hint}"
            ]
        case telemetry_events.AccessRefused():
            return [f"⚠️ Refused access at {at} with {telemetry.status}: {telemetry.reason}"]
        case telemetry_events.OperatorActed():
            return [
                f"· Operator at {telemetry.client or '?'} asked {at} to {telemetry.action}: {telemetry.count} done"
            ]
        case telemetry_events.ConnectionRefused():
            return [f"⚠️ Refused a connection at {at} with {telemetry.status}: {telemetry.reason}"]
        case telemetry_events.GroupExpired():
            why = "no listener joined it for GROUP_EXPIRES"
            return [f"⚠️ Group {telemetry.group} expired in {at}: {why}; it holds no events back any more"]
        case telemetry_events.GapNoted():
            gone = f"{telemetry.first} to {telemetry.last} of journal {telemetry.journal}"
            return [f"⚠️ Events {gone} were deleted before {at} could read them"]
        case telemetry_events.Pruned():
            return [f"· Pruned {telemetry.count} old events in {at}"]
        case telemetry_events.StandbyEntered():
            return [f"⏸️ Standby in {at}: {telemetry.reason}"]
        case telemetry_events.Connected():
            return [f"✅ Connected to producer in {at}"]
        case telemetry_events.Disconnected():
            return [f"❌ Disconnected from producer in {at} ({telemetry.reason})"]
        case telemetry_events.Reconnecting():
            delay_ms = round(telemetry.delay_s * 1000)
            return [f"🔄 Attempting to reconnect in {delay_ms}ms (attempt {telemetry.attempt}) in {at}"]
        case telemetry_events.ConnectingAgain():
            return [f"🔄 Reconnecting to WebSocket in {at}..."]
        case telemetry_events.Quarantined():
            died = f"{telemetry.takeovers} processes died while handling it"
            return [f"⚠️ Quarantined event {telemetry.id} at {at}: {died}; running it alone"]
        case telemetry_events.ConflictsFound():
            return [f"⚠️ Conflict: other content under a used identity, {_events(telemetry, 'event ')} at {at}"]
        case telemetry_events.ProcessingFailed():
            left = f"retries left: {telemetry.retries_left}"
            return [f"❌ Processing failed for event {telemetry.id} at {at}, {left} ({telemetry.error})"]
        case telemetry_events.HandlersBlocked():
            return [f"⚠️ Events for plain 'def' handlers wait in {at}: {telemetry.error}"]
        case telemetry_events.ForeignValues():
            what = f"{telemetry.count} keys in Redis had values that are not Oncecast's"
            where = f"the first is {telemetry.key!r} with {telemetry.value}"
            return [f"⚠️ {what}: {at} has overwritten them ({where}); does another application use REDIS_URL?"]
        case telemetry_events.LoopBlocked():
            what = (
                f"handler {telemetry.handler} of event {telemetry.id}"
                if telemetry.handler
                else "code of the application"
            )
            remedy = "make it a plain 'def', which runs in a thread, or call asyncio.to_thread"
            return [
                f"⚠️ {what} has blocked the event loop of {at} for {telemetry.blocked_s:g} s,"
                f" at {telemetry.at}; {remedy}"
            ]
        case telemetry_events.InsertFailed():
            return [
                f"❌ DB insert failed for {telemetry.id}, retries left: {telemetry.retries_left} ({telemetry.error})"
            ]
        case telemetry_events.DeadLettered():
            return [
                f"❌ Event {telemetry.id} {_TERMINAL_CAUSES.get(telemetry.cause, _TERMINAL_CAUSES['retries'])}"
                f" in {at} ({telemetry.error})"
            ]
        case telemetry_events.DeadLettersLogged():
            return [f"📝 Logged failed event {telemetry.id} to {telemetry.file}"]
        case telemetry_events.DeadLetterLogFailed():
            return [f"❌ Dead letters cannot be logged in {at}: {telemetry.error}; their rows are safe"]
        case telemetry_events.Sent():
            return [f"📤 Sent dead letter {telemetry.id} to {telemetry.broker}"]
        case telemetry_events.ForwardingRefused():
            return [
                f"⚠️ {telemetry.broker} refused dead letter {telemetry.id} of {at} ({telemetry.error});"
                " it will be retried"
            ]
        case telemetry_events.Replayed():
            return [f"✅ Replayed {telemetry.id}: stored by {at}"]
        case telemetry_events.ReplayFailed():
            return [f"❌ Replay of {telemetry.id} failed at {at}: it remains a dead letter ({telemetry.error})"]
        case telemetry_events.ConflictReplayed():
            return [f"✅ Replayed the conflict {telemetry.cursor} as event {telemetry.id}: stored by {at}"]
        case telemetry_events.ConflictReplayFailed():
            return [f"❌ Replay of the conflict {telemetry.cursor} failed at {at}: it stays open ({telemetry.error})"]
        case telemetry_events.ConflictsDiscarded():
            return [f"· Discarded {telemetry.count} conflicts in {at}; their rows are kept"]
        case telemetry_events.EmissionsRelayed():
            return [f"✅ Published {telemetry.count} emitted events from {at}"]
        case telemetry_events.OutboxBlocked():
            return [f"⚠️ Emitted events wait in the outbox of {at}: {telemetry.error}"]
        case telemetry_events.EmissionDropped():
            return [f"❌ No producer accepts an emitted event: {telemetry.error}; it stays in the table outbox"]
        case telemetry_events.DeadLettersDiscarded():
            return [f"· Discarded {telemetry.count} dead letters in {at}; their rows are kept"]
        case telemetry_events.Restored():
            return [f"· Restored {telemetry.count} dead letters in {at}"]
        case telemetry_events.LifespanCutShort():
            within = f"within {telemetry.after_s:g} s (DRAIN_TIMEOUT)"
            return [f"⚠️ Lifespan {telemetry.name} of {at} did not end {within}: it was cut short"]
        case telemetry_events.TakenOver():
            return [f"✅ Took over {telemetry.count} events of dead process {telemetry.owner} in {at}"]
        case telemetry_events.DependencyTried():
            return [f"🔄 Connecting to {_DEPENDENCIES.get(telemetry.name, telemetry.name)} in {at}..."]
        case telemetry_events.DependencyLost(name="redis"):
            return [f"⚠️ Redis unavailable in {at}: duplicate risk ({telemetry.error})"]
        case telemetry_events.DependencyReady(name="redis"):
            return [f"✅ Redis ready in {at}"]
        case telemetry_events.DependencyLost(name="broker"):
            return [f"❌ Dead letters cannot be sent in {at}: {telemetry.error}; they wait in PostgreSQL"]
        case telemetry_events.DependencyReady(name="broker"):
            return [f"✅ Broker of dead letters ready in {at}"]
        case telemetry_events.DependencyLost():
            return [f"❌ PostgreSQL unavailable in {at}: events wait ({telemetry.error})"]
        case telemetry_events.DependencyReady():
            return [f"✅ PostgreSQL ready in {at}"]
        case _:
            values = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(telemetry).items())
            return [f"· {_words(type(telemetry).__name__)} in {at}" + (f": {values}" if values else "")]


def _count(telemetry: telemetry_events.BatchEvent) -> str:
    return telemetry.first_id if telemetry.count == 1 else f"{telemetry.count} events"


def _range(telemetry: telemetry_events.BatchEvent) -> str:
    return "" if telemetry.count == 1 else f" ({telemetry.first_id} … {telemetry.last_id})"


def _events(telemetry: telemetry_events.BatchEvent, single: str) -> str:
    return f"{single}{telemetry.first_id}" if telemetry.count == 1 else f"{telemetry.count} events{_range(telemetry)}"


def _words(name: str) -> str:
    """`CursorSaved` → `Cursor saved`."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return words[:1].upper() + words[1:]


def _printable(text: str) -> str:
    """Return the first line of `text`, without control characters."""
    return printable(text.partition("\n")[0])
