"""Facts: what a service reports of itself, one per batch. Logs, metrics, the page and the tests live on them.

A service is given one `Observe` function and calls it with a fact; what becomes of it is not its concern.
Counts are of events, times in seconds, ids those of the first and last event of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """The root of all facts."""


Emit = Callable[[TelemetryEvent], None]


def ignore(_fact: TelemetryEvent) -> None:
    """Observe nothing."""


TerminalCause = Literal["retries", "rejected", "data", "crashes"]
"""Why an event is dead: its attempts failed, its handler rejected it, its data does not fit, processes died of it."""


@dataclass(frozen=True, slots=True)
class BatchEvent(TelemetryEvent):
    """Something happened to `count` events at once."""

    count: int
    first_id: str
    last_id: str


@dataclass(frozen=True, slots=True)
class StartFailed(TelemetryEvent):
    """The application, or its database, could not be had yet; it is tried again after `delay_s`."""

    error: str
    retries_left: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class ProcessStarted(TelemetryEvent):
    """A producer or listener has begun to listen at `address`; `serving` is its journal, or its group."""

    what: str
    version: str
    pid: int
    address: str
    serving: str


# --- producer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalOpened(TelemetryEvent):
    """The journal is open: its name, the new epoch and the offsets it holds."""

    journal: str
    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Accepted(BatchEvent):
    """Events are on disk and acknowledged; the journal took `commit_s` for the commit they shared."""

    bytes: int
    commit_s: float


@dataclass(frozen=True, slots=True)
class PublicationRefused(TelemetryEvent):
    """A publication was refused with this HTTP status, before anything was accepted."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class AccessRefused(TelemetryEvent):
    """A request or hand-shake lacked a token (401), came from a foreign origin (403) or named another host (421)."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class OperatorActed(TelemetryEvent):
    """An operator has changed something over HTTP; `client` is the address that asked."""

    action: str
    count: int
    client: str


@dataclass(frozen=True, slots=True)
class ConnectionRefused(TelemetryEvent):
    """A client went beyond a limit of the server before its request was read; `status` is what it was answered."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class JournalFailed(TelemetryEvent):
    """The journal refused a batch; it is opened anew and checked before the next."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalDamaged(TelemetryEvent):
    """A reader came to offsets of the journal that cannot be read; reported once for all readers."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalFilling(TelemetryEvent):
    """Events that `group` has not processed take up so much of what the journal may have."""

    percent: int
    group: str


@dataclass(frozen=True, slots=True)
class GroupExpired(TelemetryEvent):
    """No listener of the group was seen for so long: it holds nothing back any more."""

    group: str


@dataclass(frozen=True, slots=True)
class SubscriberJoined(TelemetryEvent):
    """A reader connected: `kind` is `listener` or `client`."""

    kind: str
    name: str
    after: int


@dataclass(frozen=True, slots=True)
class SubscriberLeft(TelemetryEvent):
    """A reader is gone, and why."""

    kind: str
    name: str
    reason: str


# --- listener: feed -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected(TelemetryEvent):
    """The feed of a producer is up; events after `after` will come."""

    producer: str
    after: int


@dataclass(frozen=True, slots=True)
class Disconnected(TelemetryEvent):
    """The feed of a producer broke."""

    producer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnecting(TelemetryEvent):
    """The feed will be tried again after `delay_s`."""

    producer: str
    delay_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class ConnectingAgain(TelemetryEvent):
    """The wait is over: the feed is tried again now."""

    producer: str


@dataclass(frozen=True, slots=True)
class Received(BatchEvent):
    """Events arrived from a producer."""


# --- listener: work -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started(BatchEvent):
    """These events are this listener's: an attempt begins."""


@dataclass(frozen=True, slots=True)
class Quarantined(TelemetryEvent):
    """An event was rescued from so many dead holders that it is attempted alone."""

    id: str
    takeovers: int


@dataclass(frozen=True, slots=True)
class Persisted(BatchEvent):
    """The rows are committed by this listener."""

    after_retry: bool = False


@dataclass(frozen=True, slots=True)
class Duplicates(BatchEvent):
    """These arrivals had been ended already, by another listener or an earlier publication."""


@dataclass(frozen=True, slots=True)
class ConflictsFound(BatchEvent):
    """Other content under a used identity: kept in `conflicts`, not processed."""


@dataclass(frozen=True, slots=True)
class ProcessingFailed(TelemetryEvent):
    """An attempt of one event failed; without retries left it was the last."""

    id: str
    error: str
    retries_left: int
    source: str = ""
    traceback: str = ""
    """From the user's first frame on; empty where the error is none of the user's code."""


@dataclass(frozen=True, slots=True)
class HandlersBlocked(TelemetryEvent):
    """No plain `def` handler is begun until one of those ends that run on beyond their time; events wait."""

    error: str


@dataclass(frozen=True, slots=True)
class ForeignValues(TelemetryEvent):
    """`count` of Oncecast's keys in Redis had values of another application; they were overwritten."""

    count: int
    key: str
    """The first of them."""
    value: str
    """How it begins."""


@dataclass(frozen=True, slots=True)
class LoopBlocked(TelemetryEvent):
    """Users' code blocks the event loop. Without a `handler` it is a task of theirs, or the lifespan."""

    handler: str
    id: str
    """Of the event, or of the first of a batch."""
    blocked_s: float
    at: str
    traceback: str


@dataclass(frozen=True, slots=True)
class InsertFailed(TelemetryEvent):
    """The database failed under these events; it is tried again."""

    id: str
    error: str
    retries_left: int


@dataclass(frozen=True, slots=True)
class DeadLettered(TelemetryEvent):
    """An event was given up on: its row says `dead`."""

    id: str
    error: str
    cause: TerminalCause = "retries"


@dataclass(frozen=True, slots=True)
class DeadLettersLogged(TelemetryEvent):
    """The line of a dead letter is in the file."""

    id: str
    file: str


@dataclass(frozen=True, slots=True)
class DeadLetterLogFailed(TelemetryEvent):
    """The file of dead letters cannot be written; the rows are there, the lines follow later."""

    error: str


@dataclass(frozen=True, slots=True)
class Sent(TelemetryEvent):
    """The broker has confirmed a dead letter."""

    id: str
    broker: str


@dataclass(frozen=True, slots=True)
class ForwardingRefused(TelemetryEvent):
    """The broker takes others, but not this dead letter: it is tried again after a while."""

    id: str
    broker: str
    error: str


@dataclass(frozen=True, slots=True)
class Replayed(TelemetryEvent):
    """A dead letter was processed again, and is stored now."""

    id: str


@dataclass(frozen=True, slots=True)
class ReplayFailed(TelemetryEvent):
    """A dead letter that was processed again stays dead."""

    id: str
    error: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class DeadLettersDiscarded(TelemetryEvent):
    """An operator has discarded dead letters: their rows are kept, and nobody is shown them."""

    count: int


@dataclass(frozen=True, slots=True)
class Restored(TelemetryEvent):
    """Discarded dead letters are shown again."""

    count: int


@dataclass(frozen=True, slots=True)
class ConflictReplayed(TelemetryEvent):
    """The event of the conflict at `cursor` is stored as `id`."""

    id: str
    cursor: str


@dataclass(frozen=True, slots=True)
class ConflictReplayFailed(TelemetryEvent):
    """A conflict that was replayed stays open."""

    cursor: str
    error: str


@dataclass(frozen=True, slots=True)
class ConflictsDiscarded(TelemetryEvent):
    """An operator has closed conflicts without processing them; their rows are kept."""

    count: int


@dataclass(frozen=True, slots=True)
class EmissionsRelayed(TelemetryEvent):
    """So many events that handlers emitted have been accepted by a producer."""

    count: int


@dataclass(frozen=True, slots=True)
class EmissionDropped(TelemetryEvent):
    """No producer will take an event that a handler emitted: it stays in the table `outbox`, with the reason."""

    error: str


@dataclass(frozen=True, slots=True)
class OutboxBlocked(TelemetryEvent):
    """What handlers emit waits in the outbox, and is tried again until a producer takes it."""

    error: str


@dataclass(frozen=True, slots=True)
class TakenOver(TelemetryEvent):
    """Events whose holder is dead are free again."""

    count: int
    holder: str


@dataclass(frozen=True, slots=True)
class CursorSaved(TelemetryEvent):
    """PostgreSQL shows every row up to here."""

    journal: str
    cursor: str


@dataclass(frozen=True, slots=True)
class GapNoted(TelemetryEvent):
    """The journal had let go of these offsets before the group had read them: noted in `gaps`, and passed."""

    journal: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Pruned(TelemetryEvent):
    """Rows older than they are to be kept are gone."""

    count: int


@dataclass(frozen=True, slots=True)
class StandbyEntered(TelemetryEvent):
    """This listener does not work, and why: events shall not end without their handler."""

    reason: str


@dataclass(frozen=True, slots=True)
class RowsMissing(TelemetryEvent):
    """Events counted as ended have no row (PostgreSQL went back to an older state): they are read again."""

    journal: str
    after: int


# --- dependencies -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DependencyLost(TelemetryEvent):
    """`name` (`redis`, `database`, `broker`) is out of reach, or refuses everything."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class DependencyTried(TelemetryEvent):
    """`name` (`redis`, `database`, `broker`) is being connected to (again); told once for each time it was lost."""

    name: str


@dataclass(frozen=True, slots=True)
class DependencyReady(TelemetryEvent):
    """`name` (`redis`, `database`, `broker`) answers (again)."""

    name: str


@dataclass(frozen=True, slots=True)
class Stopping(TelemetryEvent):
    """The process drains: no new work is begun."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class LifespanCutShort(TelemetryEvent):
    """The end of the application's lifespan took longer than it may."""

    name: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Stopped(TelemetryEvent):
    """The process has drained; what was not ended was handed back."""

    handed_back: int
