"""The ports to a journal, a lease store and an event store.

Every adapter, in memory or real, passes the conformance suite of its port. Adapters translate the errors of their
libraries into those of `core.errors`, and limit every call by a deadline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol

from oncecast.core.attempts import FailedAttempt
from oncecast.core.cursors import Save, SavedCursor
from oncecast.core.dead_letter_ports import UnloggedDeadLetters
from oncecast.core.errors import JournalUnavailable
from oncecast.core.event import Arrival, Cursor
from oncecast.core.journal import JournalBatch, KnownGroup
from oncecast.core.leases import Claims
from oncecast.core.outcomes import DeadLetterResult, EarlierAttempts, Outcome
from oncecast.core.ranges import EndedRange, Range, WholeRanges
from oncecast.core.transaction import OpenTransaction
from oncecast.core.wire import Epoch

# --- journal ------------------------------------------------------------------------------------------------


class Journal(Protocol):
    """A producer's durable log. Offsets begin at 1 and have no holes."""

    @property
    def name(self) -> str:
        """A random name, drawn when the journal was created, and kept in its file."""

    @property
    def key(self) -> str:
        """The secret of the journal, drawn with its name: it proves that a producer has this journal."""

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All epochs, oldest first; the last is the current one."""

    @property
    def first(self) -> int:
        """The oldest offset that can be read."""

    @property
    def last(self) -> int:
        """The newest offset on disk; `first - 1` while it is empty."""

    @property
    def used_bytes(self) -> int:
        """The approximate size of the events."""

    @property
    def groups(self) -> Mapping[str, KnownGroup]:
        """The known groups, by name."""

    @property
    def failing(self) -> JournalUnavailable | None:
        """Why the journal accepts no events now; None while it works."""

    @property
    def damage(self) -> str | None:
        """The kept offsets that were found to be unreadable; None if there are none."""

    async def append(self, events: Sequence[bytes]) -> int:
        """Write `events` (each structured JSON) and sync; return the offset of the first, the others follow.

        Concurrent calls share a commit. Raises JournalFull or JournalUnavailable; then no event was accepted.
        """

    async def read(self, after: int, max_bytes: int, max_events: int | None = None) -> list[JournalBatch]:
        """Return batches after offset `after`, in order, up to `max_bytes` but at least one if there is one.

        With `max_events` it stops once it has that many events after `after`. The first batch may begin at or before
        `after`. Raises JournalCorrupt that names the offsets.
        """

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """Save these groups, each in place of the one with its name. Raises as `append` does."""

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Delete the oldest batches up to offset `upto`: those from before `before_us` (Unix time in µs), and more
        while more than `keep_bytes` are used. The newest batch always stays.

        Raises as `append` does; some batches may be deleted then.
        """

    def on_commit(self, callback: Callable[[Sequence[JournalBatch]], None]) -> None:
        """Call `callback` on the event loop with the batches of every commit, in order."""


# --- leases -------------------------------------------------------------------------------------------------


class Leases(Protocol):
    """Leases: which listener handles which range for now. They save work and prove nothing: any answer may be stale.

    No call changes a range. All raise Unavailable within about two seconds if Redis is down, slow or refuses.
    """

    @property
    def token(self) -> str:
        """The token of this listener, drawn at its start."""

    async def claim(self, ranges: Sequence[Range]) -> Claims:
        """Lease the free ranges for `LEASE_TTL`."""

    async def reclaim(self, ranges: Sequence[Range]) -> Claims:
        """Lease as `claim` does, also ranges with a done marker, which may be wrong."""

    async def peek(self, ranges: Sequence[Range]) -> Claims:
        """Return who has which range, without leasing any."""

    async def mark_done(self, ranges: Sequence[Range]) -> None:
        """Turn this listener's leases of ended ranges into done markers; leave other listeners' leases unchanged."""

    async def release(self, ranges: Sequence[Range]) -> int:
        """Release this listener's leases of these ranges; return their number."""

    async def take_over(self, ranges: Sequence[Range], owner: str, *, died: bool) -> int:
        """Free the ranges that the token `owner` still leases, and count that if it `died`; return their number.

        The listener that claims a range gets the count in `Claims.takeovers`.
        """

    async def renew(self, ranges: Sequence[Range]) -> None:
        """Extend this listener's leases of these ranges to `LEASE_TTL` from now."""

    async def heartbeat(self) -> None:
        """Increment this listener's counter, to show that it is alive."""

    async def counters(self, tokens: Sequence[str]) -> Mapping[str, int | None]:
        """Return the heartbeat counters of these lease owners; None for an owner that has none."""

    async def close(self) -> None:
        """Close the connections."""


# --- events -------------------------------------------------------------------------------------------------


class Sessions(Enum):
    """The state of the database sessions of a lease owner whose heartbeat has stopped."""

    NONE = "none"
    """The process is gone: its operating system has closed its connections."""
    SILENT = "silent"
    """The sessions were open without a recent statement, and were ended: the process is stopped or cut off."""
    IN_USE = "in use"
    """A session began a statement recently, and none was ended: the process lives, but does not reach Redis."""


Work = Callable[[OpenTransaction], Awaitable[None]]
"""Runs the handlers of an event on the transaction that ends it."""
WorkTogether = Callable[[OpenTransaction, Sequence[Arrival]], Awaitable[None]]
"""Runs the handlers of the new events of a batch on the transaction that ends them all."""


class CrashLog(Protocol):
    """Charges the crash of a listener's process to the event that it ran alone.

    The listener that takes over its ranges counts the crash, or the next process of the same name. All calls raise
    Unavailable if PostgreSQL is down or slow.
    """

    async def register_process(self) -> bool:
        """Record the start of this listener's process; return whether the previous one crashed.

        A crash is counted for the event that the previous process had begun to run alone.
        """

    async def unregister_process(self) -> None:
        """Record that this listener's process ended normally."""

    async def count_crash(self, token: str) -> None:
        """Charge the crash of the process with this token to the event that it ran alone. Safe to repeat."""

    async def begin_isolated(self, arrival: Arrival) -> int:
        """Record that this process runs a quarantined event alone; return how many processes died of it so far.

        Replaces any other event recorded by this process.
        """

    async def end_isolated(self, arrival: Arrival) -> None:
        """Record that this process has survived the event."""


Publish = Callable[[Sequence[bytes]], Awaitable[None]]
"""Publishes events (structured JSON) in order, always under the same ids. Raises Unavailable if some may not be
accepted, EmissionRefused if the producer will never accept one."""


class Outbox(Protocol):
    """The events that handlers emitted and no producer has accepted yet. Calls raise Unavailable."""

    async def relay(self, publish: Publish, *, limit: int, max_bytes: int, within_s: float) -> int:
        """Pass the oldest events to `publish`, then delete them; return their number.

        Reads up to `limit` events and `max_bytes`, but at least one event. The transaction stays open while `publish`
        runs, which must return within `within_s`. Returns 0 if there are none, or if another listener of the group is
        relaying. A refused event is put aside with the reason; the events before it are kept, to be published again.
        Raises what `publish` raises, too.
        """


class DatabaseServer(Protocol):
    """PostgreSQL as this listener reaches it."""

    @property
    def incarnation(self) -> str:
        """Differs after each restart of PostgreSQL, and on another server: that may have an older state.

        Empty before the first connection.
        """


class EventStore(DatabaseServer, Protocol):
    """The transactions in which events end. Exactly-once processing rests on them.

    All calls of this and the following ports raise Unavailable if PostgreSQL is down or slow; the outcome of a write
    is then unknown.
    """

    @property
    def ready_ahead(self) -> int:
        """How many calls of `process` should wait in addition to the running ones, so that they begin sooner."""

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        """End a batch of events without handlers in one transaction; return the outcomes in the order of the batch.

        Skips an event if as many attempts as `Arrival.attempts`, the number of this one, have failed already. Raises
        DataRefused if an event cannot be stored, RowLocked if another session has locked one; then none is stored.
        """

    @property
    def whole_min_events(self) -> int:
        """From how many events on `insert_whole` costs less than `insert`."""

    def prepare_whole(self, ranges: Sequence[Range]) -> WholeRanges | None:
        """Return undecoded ranges as they are inserted; None if one must be inserted by `insert`."""

    async def insert_whole(self, whole: WholeRanges) -> bool:
        """End all events of ranges, without handlers, in one transaction; return whether.

        False, with nothing stored, if `insert` must decide on an event: it has a row, has failed before, or cannot be
        stored.
        """

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        """End one event together with what `work` writes. `work` runs only if the row is new.

        Raises what `work` raises (then nothing is kept), AttemptFailed if the transaction cannot be committed as one,
        what `insert` raises, and NotNext if an ordered event must wait.
        """

    async def process_together(
        self, arrivals: Sequence[Arrival], work: WorkTogether
    ) -> list[Outcome | EarlierAttempts]:
        """End several unordered events of one epoch together with what `work` writes for those with new rows.

        All or none commit, in one transaction. Raises what `process` raises.
        """

    async def compare(self, arrivals: Sequence[Arrival]) -> list[Outcome | None]:
        """Compare arrivals with the rows of their identities, and keep the conflicts; None where there is no row."""

    async def count_failure(self, failure: FailedAttempt) -> int:
        """Count a failed attempt; return the failed attempts of its event. Safe to repeat with the same failure.

        The count is deleted when the event ends. Raises RowLocked while another session attempts the event.
        """

    async def dead_letter(self, arrival: Arrival, cause: BaseException) -> DeadLetterResult:
        """End one event as dead, with its cause, unless it has ended before. Raises NotNext as `process` does."""


class HandlerRegistry(Protocol):
    """The newest handlers of the group."""

    async def register_handlers(self, selectors: frozenset[str], *, force: bool) -> frozenset[str]:
        """Record `selectors` as the group's handlers if `decide_registration` says so; return the missing ones.

        If another record becomes the newest later, inserts of this listener raise RowLocked. Raises RowLocked if
        another listener wrote a record at the same time.
        """


class Cursors(DatabaseServer, Protocol):
    """The group's cursors, one per journal."""

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        """Return the hash of the key with which the group first met this journal; save `key_hash` if it is new."""

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        """Return the group's cursor in this journal."""

    async def record_ranges(self, ended: Sequence[EndedRange], incarnation: str) -> bool:
        """Record ranges whose events all have committed rows. Safe to repeat. Raises RowLocked too.

        All rows must have been committed at `incarnation`. At another one it records nothing and returns False: the
        rows may be lost.
        """

    async def save_cursor(self, journal: str, epochs: Sequence[Epoch], *, position: Cursor, proved: int) -> Save:
        """Advance the group's cursor over the recorded ranges, and delete those.

        `position` is the cursor that the caller knows to be saved, and `proved` the offset up to which it takes
        ranges for recorded, by its own records and by done markers; if they are not, the answer says that ranges are
        missing. Changes nothing while another listener has the cursor locked, or if the cursor was
        saved with an epoch that the caller does not know: the caller's history may be the divergent one.
        """

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """Create the group's cursor in this journal at `at`, unless it has one."""

    async def adopt_cursor(self, journal: str, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]) -> None:
        """Convert the cursor to `epochs`, after `instead_of`, its epochs so far, proved to be a divergent history.

        Changes nothing if the cursor has other epochs by now. Raises RowLocked too.
        """

    async def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """Record the offsets between the group's cursor and `first` as a gap, and move the cursor over it.

        Both happen in one transaction; returns the new cursor. A cursor before `after` does not move. None if the
        group has no cursor, or one saved with an epoch that the caller does not know. Raises RowLocked too.
        """


class PrunedRows(NamedTuple):
    """How many rows a call deleted, and when the newest of them was stored."""

    rows: int
    up_to: datetime | None


class RowRetention(Protocol):
    """Deletion of what is no longer needed."""

    async def prune(self, *, older_than_s: float, limit: int, after: datetime | None = None) -> PrunedRows:
        """Delete up to `limit` of the oldest stored rows of that age below the saved cursors.

        `after` is the `up_to` of the previous call, which looked at all older rows.
        """

    async def count_prunable(self, *, older_than_s: float) -> int:
        """Return how many rows `prune` would delete."""

    async def prune_attempts(self, *, overdue_s: float) -> int:
        """Delete the counts of events that have ended, or whose next attempt is overdue by more; return how many."""


class DatabaseConnections(Protocol):
    """The connections to PostgreSQL, and the sessions of other listeners."""

    async def probe(self, *, writes: bool = True) -> None:
        """Check on a new connection that PostgreSQL accepts writes; with `writes`, write. Raises RowLocked too."""

    async def renew(self) -> None:
        """Replace all connections, after an outage."""

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        """End the database sessions of the lease owner `token`, to free its locks; return their state.

        They stay open if one has begun a statement within the last `silent_s`.
        """

    async def close(self) -> None:
        """Close all connections."""


class ListenerStore(
    EventStore, UnloggedDeadLetters, HandlerRegistry, Cursors, RowRetention, DatabaseConnections, Protocol
):
    """All that a listener needs of its group's schema to process events."""
