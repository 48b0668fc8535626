"""Facts as log lines: for people on a console, or one JSON object a line for log shippers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

from oncecast.core import telemetry as facts
from oncecast.core.telemetry import Fact, Observe
from oncecast.observe.output import Entry, Write, printable, writer
from oncecast.observe.standard import capture

_QUIET = (
    facts.CursorSaved,
    facts.Accepted,
    facts.SubscriberJoined,
    facts.SubscriberLeft,
    facts.ConnectionRefused,
    facts.AccessRefused,
)
"""Said at level debug: true every second, or of interest to few."""

_LOUD = (
    facts.DependencyLost,
    facts.Died,
    facts.EmissionRefused,
    facts.FilingFailed,
    facts.JournalDamaged,
    facts.JournalFailed,
    facts.RowsMissing,
)
_WARNING = (
    facts.StartFailed,
    facts.Suspected,
    facts.ProcessingFailed,
    facts.ReplayFailed,
    facts.ConflictReplayFailed,
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
    facts.LoopBlocked,
    facts.ForeignValues,
)
_SEVERITIES = {
    **dict.fromkeys(_QUIET, logging.DEBUG),
    **dict.fromkeys(_WARNING, logging.WARNING),
    **dict.fromkeys(_LOUD, logging.ERROR),
}
_UNDER_LOAD = (facts.Received, facts.Started, facts.Duplicates)
"""Of several events they are said at level debug: then the line that counts is "Persisted"."""

_COMPONENTS: dict[str, tuple[type[Fact], ...]] = {
    "process": (
        facts.ProcessStarted,
        facts.StartFailed,
        facts.StandingBy,
        facts.Stopping,
        facts.Stopped,
        facts.LifespanCutShort,
        facts.LoopBlocked,
    ),
    "journal": (
        facts.JournalDamaged,
        facts.JournalOpened,
        facts.Accepted,
        facts.JournalFailed,
        facts.JournalFilling,
        facts.GroupExpired,
    ),
    "http": (facts.Refused, facts.AccessRefused, facts.ConnectionRefused, facts.OperatorActed),
    "redis": (facts.ForeignValues,),
    "broadcast": (facts.SubscriberJoined, facts.SubscriberLeft),
    "feed": (facts.Connected, facts.Disconnected, facts.Reconnecting, facts.ConnectingAgain, facts.Received),
    "cursor": (facts.CursorSaved, facts.RowsMissing, facts.GapNoted),
    "outbox": (facts.EmissionsRelayed, facts.EmissionsHeldUp, facts.EmissionRefused),
    "dead-letters": (
        facts.Filed,
        facts.FilingFailed,
        facts.Sent,
        facts.SendingRefused,
        facts.Replayed,
        facts.ReplayFailed,
        facts.Discarded,
        facts.Restored,
    ),
    "retention": (facts.Pruned,),
}
_COMPONENT_OF = {kind: component for component, kinds in _COMPONENTS.items() for kind in kinds}
_OF_EVENTS = "events"
"""The component of everything else: what happens to events in a listener."""

_DEATHS: dict[facts.Cause, str] = {
    "retries": "failed after all retries",
    "rejected": "was rejected by its handler",
    "data": "has data that does not fit its handler",
    "crashes": "ended the processes that handled it, and is not tried again",
}
"""What is said of an event that is dead, by its cause."""
_DEPENDENCIES = {"redis": "Redis", "database": "PostgreSQL", "broker": "the broker of dead letters"}


def start_logging(
    instance: str, *, format: str = "console", level: str = "info", packages: Iterable[str] = ()
) -> Observe:
    """Return an observer as `log_facts` does, and have log lines of users' code and libraries written alike.

    `packages` are the names of the application's own packages.
    """
    write = writer(instance, format)
    capture(write, logging.getLevelNamesMapping()[level.upper()], packages)
    return _observer(write, instance, level)


def log_facts(instance: str, *, format: str = "console", level: str = "info") -> Observe:
    """An observer that writes each fact as a line to standard output."""
    return _observer(writer(instance, format), instance, level)


def _observer(write: Write, instance: str, level: str) -> Observe:
    minimum = logging.getLevelNamesMapping()[level.upper()]

    def observe(fact: Fact) -> None:
        severity = _severity(fact)
        if severity >= minimum:
            values = {name: value for name, value in dataclasses.asdict(fact).items() if name != "event"}
            traceback = values.pop("traceback", "")
            message = " ".join(console_lines(fact, instance))
            write(
                Entry(
                    severity=severity,
                    component=_component(fact),
                    kind=type(fact).__name__,
                    message=message,
                    traceback=traceback,
                    values=values,
                )
            )

    return observe


def _component(fact: Fact) -> str:
    if isinstance(fact, facts.DependencyLost | facts.DependencyTried | facts.DependencyReady):
        return fact.name
    return _COMPONENT_OF.get(type(fact), _OF_EVENTS)


def _severity(fact: Fact) -> int:
    if isinstance(fact, _UNDER_LOAD) and fact.count > 1:
        return logging.DEBUG
    return _SEVERITIES.get(type(fact), logging.INFO)


def console_lines(fact: Fact, at: str) -> list[str]:
    """What the console says of `fact` in instance `at`; text of others comes without control characters."""
    error = getattr(fact, "error", "")
    if "\n" in error:
        fact = dataclasses.replace(fact, error=error.partition("\n")[0])  # type: ignore[call-arg]
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
        case facts.ProcessStarted():
            where = f"pid {fact.pid}, {fact.address}, {fact.serving}"
            return [f"▶️ Oncecast {fact.what} {fact.version} started in {at}: {where}"]
        case facts.StartFailed():
            wait = f"trying again in {fact.delay_s:g} s, retries left: {fact.retries_left}"
            return [f"❌ Cannot start {at} yet: {fact.error}; {wait}"]
        case facts.JournalDamaged():
            return [f"❌ Journal of {at} is damaged: {fact.error}; run 'oncecast journal check'"]
        case facts.JournalFailed():
            return [f"❌ Journal of {at} accepts nothing: {fact.error}"]
        case facts.JournalFilling():
            told = "'oncecast groups list' tells more"
            return [
                f"⚠️ Journal of {at} is {fact.percent} % full of events that {fact.group} has not processed; {told}"
            ]
        case facts.AccessRefused():
            return [f"⚠️ Refused access at {at} with {fact.status}: {fact.reason}"]
        case facts.OperatorActed():
            return [f"· Operator at {fact.client or '?'} asked {at} to {fact.action}: {fact.count} done"]
        case facts.ConnectionRefused():
            return [f"⚠️ Refused a connection at {at} with {fact.status}: {fact.reason}"]
        case facts.GroupExpired():
            why = "no listener joined it for GROUP_EXPIRES"
            return [f"⚠️ Group {fact.group} expired in {at}: {why}; it holds no events back any more"]
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
            died = f"{fact.rescues} processes died while handling it"
            return [f"⚠️ Quarantined event {fact.id} at {at}: {died}; running it alone"]
        case facts.Conflicts():
            return [f"⚠️ Conflict: other content under a used identity, {_events(fact, 'event ')} at {at}"]
        case facts.ProcessingFailed():
            left = f"retries left: {fact.retries_left}"
            return [f"❌ Processing failed for event {fact.id} at {at}, {left} ({fact.error})"]
        case facts.HandlersHeldUp():
            return [f"⚠️ Events for plain 'def' handlers wait in {at}: {fact.error}"]
        case facts.ForeignValues():
            what = f"{fact.count} keys in Redis had values that are not Oncecast's"
            where = f"the first is {fact.key!r} with {fact.value}"
            return [f"⚠️ {what}: {at} has overwritten them ({where}); does another application use REDIS_URL?"]
        case facts.LoopBlocked():
            what = f"handler {fact.handler} of event {fact.id}" if fact.handler else "code of the application"
            remedy = "make it a plain 'def', which runs in a thread, or call asyncio.to_thread"
            return [f"⚠️ {what} has blocked the event loop of {at} for {fact.blocked_s:g} s, at {fact.at}; {remedy}"]
        case facts.InsertFailed():
            return [f"❌ DB insert failed for {fact.id}, retries left: {fact.retries_left} ({fact.error})"]
        case facts.Died():
            return [f"❌ Event {fact.id} {_DEATHS.get(fact.cause, _DEATHS['retries'])} in {at} ({fact.error})"]
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
        case facts.ConflictReplayed():
            return [f"✅ Replayed the conflict {fact.cursor} as event {fact.id}: stored by {at}"]
        case facts.ConflictReplayFailed():
            return [f"❌ Replay of the conflict {fact.cursor} failed at {at}: it stays open ({fact.error})"]
        case facts.ConflictsDiscarded():
            return [f"· Discarded {fact.count} conflicts in {at}; their rows are kept"]
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
            return [f"✅ Took over {fact.count} events of dead process {fact.holder} in {at}"]
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
    return printable(text.partition("\n")[0])
