"""Telemetry events: what a service reports about itself, one per batch, for logs, metrics, the page and tests.

A service calls its one `Record` function with each telemetry event. Counts are of events, times are in seconds,
and ids are those of the first and last event of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """The base class of all telemetry events."""


Record = Callable[[TelemetryEvent], None]


def ignore(_event: TelemetryEvent) -> None:
    """Ignore a telemetry event."""


TerminalCause = Literal["retries", "rejected", "data", "crashes"]
"""Why an event is dead: its attempts failed, its handler rejected it, its data is invalid, it crashed processes."""


@dataclass(frozen=True, slots=True)
class BatchEvent(TelemetryEvent):
    """A telemetry event about `count` events."""

    count: int
    first_id: str
    last_id: str


@dataclass(frozen=True, slots=True)
class StartFailed(TelemetryEvent):
    """The start failed, because of the application or its database; it is tried again after `delay_s`."""

    error: str
    retries_left: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class ProcessStarted(TelemetryEvent):
    """A producer or listener serves `address`; `serving` is its journal, or its group."""

    what: str
    version: str
    pid: int
    address: str
    serving: str


# --- producer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalOpened(TelemetryEvent):
    """The journal is open, with its name, the new epoch and the kept offsets."""

    journal: str
    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Accepted(BatchEvent):
    """Events are on disk and acknowledged; their common commit took `commit_s`."""

    bytes: int
    commit_s: float


@dataclass(frozen=True, slots=True)
class PublicationRefused(TelemetryEvent):
    """A publication was refused with this HTTP status; none of its events was accepted."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class AccessRefused(TelemetryEvent):
    """A request or handshake had no valid token (401), a foreign origin (403) or another host (421)."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class OperatorActed(TelemetryEvent):
    """An operator changed something over HTTP, from the address `client`."""

    action: str
    count: int
    client: str


@dataclass(frozen=True, slots=True)
class ConnectionRefused(TelemetryEvent):
    """A connection exceeded a limit of the server before its request was read; `status` is the answer."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class JournalFailed(TelemetryEvent):
    """The journal failed to write a batch; it is reopened and checked before the next."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalDamaged(TelemetryEvent):
    """Offsets of the journal cannot be read; reported once for all readers."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalFilling(TelemetryEvent):
    """Events that `group` has not processed use this percentage of the journal's maximum size."""

    percent: int
    group: str


@dataclass(frozen=True, slots=True)
class GroupExpired(TelemetryEvent):
    """No listener of the group has joined for GROUP_EXPIRES: it no longer holds back retention."""

    group: str


@dataclass(frozen=True, slots=True)
class SubscriberJoined(TelemetryEvent):
    """A reader connected: `kind` is `listener` or `client`."""

    kind: str
    name: str
    after: int


@dataclass(frozen=True, slots=True)
class SubscriberLeft(TelemetryEvent):
    """A reader disconnected, for this reason."""

    kind: str
    name: str
    reason: str


# --- listener: feed -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected(TelemetryEvent):
    """The feed of a producer is connected; events after `after` follow."""

    producer: str
    after: int


@dataclass(frozen=True, slots=True)
class Disconnected(TelemetryEvent):
    """The feed of a producer broke."""

    producer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnecting(TelemetryEvent):
    """The feed reconnects after `delay_s`."""

    producer: str
    delay_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class ConnectingAgain(TelemetryEvent):
    """The feed reconnects now, after its delay."""

    producer: str


@dataclass(frozen=True, slots=True)
class Received(BatchEvent):
    """Events arrived from a producer."""


# --- listener: work -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started(BatchEvent):
    """This listener begins an attempt at these events."""


@dataclass(frozen=True, slots=True)
class Quarantined(TelemetryEvent):
    """A quarantined event is attempted alone: it was taken over from `takeovers` dead lease owners."""

    id: str
    takeovers: int


@dataclass(frozen=True, slots=True)
class Persisted(BatchEvent):
    """This listener committed the rows."""

    after_retry: bool = False


@dataclass(frozen=True, slots=True)
class Duplicates(BatchEvent):
    """These events had ended before, by another listener or from an earlier publication."""


@dataclass(frozen=True, slots=True)
class ConflictsFound(BatchEvent):
    """Events with other content under a used identity: kept in `conflicts`, not processed."""


@dataclass(frozen=True, slots=True)
class ProcessingFailed(TelemetryEvent):
    """An attempt at one event failed; without retries left it was the last."""

    id: str
    error: str
    retries_left: int
    source: str = ""
    traceback: str = ""
    """The traceback from the user's first frame on; empty if the error is not from the user's code."""


@dataclass(frozen=True, slots=True)
class HandlersBlocked(TelemetryEvent):
    """Too many `def` handlers run after their time-out: no other begins until one of them ends, and events wait."""

    error: str


@dataclass(frozen=True, slots=True)
class ForeignValues(TelemetryEvent):
    """Keys of Oncecast in Redis had foreign values, which were overwritten."""

    count: int
    key: str
    """The first key."""
    value: str
    """The first bytes of its value."""


@dataclass(frozen=True, slots=True)
class LoopBlocked(TelemetryEvent):
    """Users' code blocked the event loop. Without a `handler` it was a task or the lifespan."""

    handler: str
    id: str
    """The id of the event, or of the first of a batch."""
    blocked_s: float
    at: str
    traceback: str


@dataclass(frozen=True, slots=True)
class InsertFailed(TelemetryEvent):
    """The database failed for these events; they are tried again."""

    id: str
    error: str
    retries_left: int


@dataclass(frozen=True, slots=True)
class DeadLettered(TelemetryEvent):
    """An event became a dead letter."""

    id: str
    error: str
    cause: TerminalCause = "retries"


@dataclass(frozen=True, slots=True)
class DeadLettersLogged(TelemetryEvent):
    """A dead letter was written to the dead-letter log."""

    id: str
    file: str


@dataclass(frozen=True, slots=True)
class DeadLetterLogFailed(TelemetryEvent):
    """The dead-letter log cannot be written; the rows are stored, and the lines follow later."""

    error: str


@dataclass(frozen=True, slots=True)
class Sent(TelemetryEvent):
    """The broker has confirmed a dead letter."""

    id: str
    broker: str


@dataclass(frozen=True, slots=True)
class ForwardingRefused(TelemetryEvent):
    """The broker refuses this dead letter, but accepts others; it is sent again later."""

    id: str
    broker: str
    error: str


@dataclass(frozen=True, slots=True)
class Replayed(TelemetryEvent):
    """A replayed dead letter is stored now."""

    id: str


@dataclass(frozen=True, slots=True)
class ReplayFailed(TelemetryEvent):
    """A replay failed; the event stays dead."""

    id: str
    error: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class DeadLettersDiscarded(TelemetryEvent):
    """An operator discarded dead letters: they are no longer listed or replayed; their rows are kept."""

    count: int


@dataclass(frozen=True, slots=True)
class Restored(TelemetryEvent):
    """An operator restored discarded dead letters."""

    count: int


@dataclass(frozen=True, slots=True)
class ConflictReplayed(TelemetryEvent):
    """The event of the conflict at `cursor` is stored as `id`."""

    id: str
    cursor: str


@dataclass(frozen=True, slots=True)
class ConflictReplayFailed(TelemetryEvent):
    """A conflict replay failed; the conflict stays open."""

    cursor: str
    error: str


@dataclass(frozen=True, slots=True)
class ConflictsDiscarded(TelemetryEvent):
    """An operator closed conflicts without processing them; their rows are kept."""

    count: int


@dataclass(frozen=True, slots=True)
class EmissionsRelayed(TelemetryEvent):
    """A producer accepted `count` events of the outbox."""

    count: int


@dataclass(frozen=True, slots=True)
class EmissionDropped(TelemetryEvent):
    """A producer refuses an emitted event for good: it stays in the table `outbox`, with the reason."""

    error: str


@dataclass(frozen=True, slots=True)
class OutboxBlocked(TelemetryEvent):
    """Emitted events wait in the outbox; they are published again until a producer accepts them."""

    error: str


@dataclass(frozen=True, slots=True)
class TakenOver(TelemetryEvent):
    """Events were taken over from a dead lease owner, and are free again."""

    count: int
    owner: str


@dataclass(frozen=True, slots=True)
class CursorSaved(TelemetryEvent):
    """The group's cursor was saved: every event up to it has a row."""

    journal: str
    cursor: str


@dataclass(frozen=True, slots=True)
class GapNoted(TelemetryEvent):
    """The journal deleted these offsets before the group read them; the gap is recorded, and the cursor passes it."""

    journal: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Pruned(TelemetryEvent):
    """Rows older than the retention period were deleted."""

    count: int


@dataclass(frozen=True, slots=True)
class StandbyEntered(TelemetryEvent):
    """This listener is on standby, because it lacks handlers of the group's application."""

    reason: str


@dataclass(frozen=True, slots=True)
class RowsMissing(TelemetryEvent):
    """Ended events have no row, because PostgreSQL went back to an older state; they are read again."""

    journal: str
    after: int


# --- dependencies -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DependencyLost(TelemetryEvent):
    """`name` (`redis`, `database`, `broker`) is unreachable, or refuses everything."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class DependencyTried(TelemetryEvent):
    """This process connects to `name` (`redis`, `database`, `broker`); reported once per outage."""

    name: str


@dataclass(frozen=True, slots=True)
class DependencyReady(TelemetryEvent):
    """`name` (`redis`, `database`, `broker`) answers."""

    name: str


@dataclass(frozen=True, slots=True)
class Stopping(TelemetryEvent):
    """The process drains: it begins no new work."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class LifespanCutShort(TelemetryEvent):
    """The end of the application's lifespan took too long and was cancelled."""

    name: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Stopped(TelemetryEvent):
    """The process has drained, and has released the events that had not ended."""

    released: int
