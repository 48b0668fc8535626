"""Telemetry events: what a service reports about itself, one per batch, for logs, metrics, the page and tests.

A service calls its one `Record` function with each telemetry event. Counts are of events, times are in seconds,
and ids are those of the first and last event of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec


class TelemetryEvent(msgspec.Struct, frozen=True):
    """The base class of all telemetry events."""


RefusalKind = Literal["invalid", "too_large", "unauthorized", "journal_full", "disk", "busy"]
"""Why a publication was refused; `busy`: the requests in progress hold as many bytes as they may."""
Record = Callable[[TelemetryEvent], None]


def ignore(_event: TelemetryEvent) -> None:
    """Ignore a telemetry event."""


TerminalCause = Literal["retries", "rejected", "data", "crashes"]
"""Why an event is dead: its attempts failed, its handler rejected it, its data is invalid, it crashed processes."""


FailureReason = Literal["handler", "retry", "rejected", "database", "timeout", "data"]
"""Why an attempt failed; `retry` and `rejected`: the handler asked for it."""
Station = Literal["claim", "insert", "transaction", "record"]
"""A step of events through a listener, of which the duration is measured."""


class BatchEvent(TelemetryEvent, frozen=True):
    """A telemetry event about `count` events."""

    count: int
    first_id: str
    last_id: str


class EventsEnded(BatchEvent, frozen=True):
    """Events have ended. `types` has the number of events of each type, as far as they are decoded."""

    types: Mapping[str, int] = {}


class StartFailed(TelemetryEvent, frozen=True):
    """The start failed, because of the application or its database; it is tried again after `delay_s`."""

    error: str
    retries_left: int
    delay_s: float


class ProcessStarted(TelemetryEvent, frozen=True):
    """A producer or listener serves `address`; `serving` is its journal, or its group."""

    what: str
    version: str
    pid: int
    address: str
    serving: str


# --- producer ---------------------------------------------------------------------------------------------


class JournalOpened(TelemetryEvent, frozen=True):
    """The journal is open, with its name, the new epoch and the kept offsets."""

    journal: str
    epoch: str
    first: int
    last: int


class Accepted(BatchEvent, frozen=True):
    """Events are on disk and acknowledged; their common commit took `commit_s`."""

    bytes: int
    commit_s: float


class PublicationRefused(TelemetryEvent, frozen=True):
    """A publication was refused with this HTTP status; none of its events was accepted."""

    status: int
    reason: str
    kind: RefusalKind = "invalid"


class AccessRefused(TelemetryEvent, frozen=True):
    """A request or handshake had no valid token (401), a foreign origin (403) or another host (421)."""

    status: int
    reason: str


class OperatorActed(TelemetryEvent, frozen=True):
    """An operator changed something over HTTP, from the address `client`."""

    action: str
    count: int
    client: str


class ConnectionRefused(TelemetryEvent, frozen=True):
    """A connection exceeded a limit of the server before its request was read; `status` is the answer."""

    status: int
    reason: str


class JournalFailed(TelemetryEvent, frozen=True):
    """The journal failed to write a batch; it is reopened and checked before the next."""

    error: str


class JournalDamaged(TelemetryEvent, frozen=True):
    """Offsets of the journal cannot be read; reported once for all readers."""

    error: str


class JournalFilling(TelemetryEvent, frozen=True):
    """Events that `group` has not processed use this percentage of the journal's maximum size."""

    percent: int
    group: str


class GroupExpired(TelemetryEvent, frozen=True):
    """No listener of the group has joined for GROUP_EXPIRES: it no longer holds back retention."""

    group: str


class SubscriberJoined(TelemetryEvent, frozen=True):
    """A reader connected: `kind` is `listener` or `client`."""

    kind: str
    name: str
    after: int


class SubscriberLeft(TelemetryEvent, frozen=True):
    """A reader disconnected, for this reason."""

    kind: str
    name: str
    reason: str


# --- listener: feed -----------------------------------------------------------------------------------------


class Connected(TelemetryEvent, frozen=True):
    """The feed of a producer is connected; events after `after` follow."""

    producer: str
    after: int


class Disconnected(TelemetryEvent, frozen=True):
    """The feed of a producer broke."""

    producer: str
    reason: str


class Reconnecting(TelemetryEvent, frozen=True):
    """The feed reconnects after `delay_s`."""

    producer: str
    delay_s: float
    attempt: int


class ConnectingAgain(TelemetryEvent, frozen=True):
    """The feed reconnects now, after its delay."""

    producer: str


class Received(BatchEvent, frozen=True):
    """Events arrived from a producer."""


# --- listener: work -----------------------------------------------------------------------------------------


class Started(BatchEvent, frozen=True):
    """This listener begins an attempt at these events."""


class Quarantined(TelemetryEvent, frozen=True):
    """A quarantined event is attempted alone: it was taken over from `takeovers` dead lease owners."""

    id: str
    takeovers: int


class Persisted(EventsEnded, frozen=True):
    """This listener committed the rows."""

    after_retry: bool = False
    waited_s: tuple[tuple[float, int], ...] = ()
    """How long they had been accepted, and for how many of them."""


class Duplicates(EventsEnded, frozen=True):
    """These events had ended before, by another listener or from an earlier publication."""

    elsewhere: bool = False
    """Whether another listener of the group has processed them."""


class ConflictsFound(EventsEnded, frozen=True):
    """Events with other content under a used identity: kept in `conflicts`, not processed."""


class ProcessingFailed(TelemetryEvent, frozen=True):
    """An attempt at one event failed; without retries left it was the last."""

    id: str
    error: str
    retries_left: int
    source: str = ""
    traceback: str = ""
    """The traceback from the user's first frame on; empty if the error is not from the user's code."""
    type: str = ""
    reason: FailureReason = "handler"


class HandlerRan(TelemetryEvent, frozen=True):
    """A handler returned or raised after `took_s`."""

    handler: str
    took_s: float


class StationTook(TelemetryEvent, frozen=True):
    """A step of some events took `took_s`."""

    station: Station
    took_s: float


class HandlersBlocked(TelemetryEvent, frozen=True):
    """Too many `def` handlers run after their time-out: no other begins until one of them ends, and events wait."""

    error: str


class ForeignValues(TelemetryEvent, frozen=True):
    """Keys of Oncecast in Redis had foreign values, which were overwritten."""

    count: int
    key: str
    """The first key."""
    value: str
    """The first bytes of its value."""


class LoopBlocked(TelemetryEvent, frozen=True):
    """Users' code blocked the event loop. Without a `handler` it was a task or the lifespan."""

    handler: str
    id: str
    """The id of the event, or of the first of a batch."""
    blocked_s: float
    at: str
    traceback: str


class InsertFailed(TelemetryEvent, frozen=True):
    """The database failed for these events; they are tried again."""

    id: str
    error: str
    retries_left: int


class DeadLettered(TelemetryEvent, frozen=True):
    """An event became a dead letter."""

    id: str
    error: str
    cause: TerminalCause = "retries"
    type: str = ""


class DeadLettersLogged(TelemetryEvent, frozen=True):
    """A dead letter was written to the dead-letter log."""

    id: str
    file: str


class DeadLetterLogFailed(TelemetryEvent, frozen=True):
    """The dead-letter log cannot be written; the rows are stored, and the lines follow later."""

    error: str


class Sent(TelemetryEvent, frozen=True):
    """The broker has confirmed a dead letter."""

    id: str
    broker: str


class ForwardingRefused(TelemetryEvent, frozen=True):
    """The broker refuses this dead letter, but accepts others; it is sent again later."""

    id: str
    broker: str
    error: str


class Replayed(TelemetryEvent, frozen=True):
    """A replayed dead letter is stored now."""

    id: str


class ReplayFailed(TelemetryEvent, frozen=True):
    """A replay failed; the event stays dead."""

    id: str
    error: str
    traceback: str = ""


class DeadLettersDiscarded(TelemetryEvent, frozen=True):
    """An operator discarded dead letters: they are no longer listed or replayed; their rows are kept."""

    count: int


class Restored(TelemetryEvent, frozen=True):
    """An operator restored discarded dead letters."""

    count: int


class ConflictReplayed(TelemetryEvent, frozen=True):
    """The event of the conflict at `cursor` is stored as `id`."""

    id: str
    cursor: str


class ConflictReplayFailed(TelemetryEvent, frozen=True):
    """A conflict replay failed; the conflict stays open."""

    cursor: str
    error: str


class ConflictsDiscarded(TelemetryEvent, frozen=True):
    """An operator closed conflicts without processing them; their rows are kept."""

    count: int


class EmissionsRelayed(TelemetryEvent, frozen=True):
    """A producer accepted `count` events of the outbox."""

    count: int


class EmissionDropped(TelemetryEvent, frozen=True):
    """A producer refuses an emitted event for good: it stays in the table `outbox`, with the reason."""

    error: str


class OutboxBlocked(TelemetryEvent, frozen=True):
    """Emitted events wait in the outbox; they are published again until a producer accepts them."""

    error: str


class TakenOver(TelemetryEvent, frozen=True):
    """Events were taken over from a dead lease owner, and are free again."""

    count: int
    owner: str


class CursorSaved(TelemetryEvent, frozen=True):
    """The group's cursor was saved: every event up to it has a row."""

    journal: str
    cursor: str


class GapNoted(TelemetryEvent, frozen=True):
    """The journal deleted these offsets before the group read them; the gap is recorded, and the cursor passes it."""

    journal: str
    first: int
    last: int


class Pruned(TelemetryEvent, frozen=True):
    """Rows older than the retention period were deleted."""

    count: int


class StandbyEntered(TelemetryEvent, frozen=True):
    """This listener is on standby, because it lacks handlers of the group's application."""

    reason: str


class RowsMissing(TelemetryEvent, frozen=True):
    """Ended events have no row, because PostgreSQL went back to an older state; they are read again."""

    journal: str
    after: int


class ServerReplaced(TelemetryEvent, frozen=True):
    """PostgreSQL was restarted or replaced: events after the saved cursor are read again, as rows may be lost."""

    journal: str
    after: int


# --- dependencies -------------------------------------------------------------------------------------------


class DependencyLost(TelemetryEvent, frozen=True):
    """`name` (`redis`, `database`, `broker`) is unreachable, or refuses everything."""

    name: str
    error: str


class DependencyTried(TelemetryEvent, frozen=True):
    """This process connects to `name` (`redis`, `database`, `broker`); reported once per outage."""

    name: str


class DependencyReady(TelemetryEvent, frozen=True):
    """`name` (`redis`, `database`, `broker`) answers."""

    name: str


class Stopping(TelemetryEvent, frozen=True):
    """The process drains: it begins no new work."""

    in_flight: int


class LifespanCutShort(TelemetryEvent, frozen=True):
    """The end of the application's lifespan took too long and was cancelled."""

    name: str
    after_s: float


class Stopped(TelemetryEvent, frozen=True):
    """The process has drained, and has released the events that had not ended."""

    released: int
