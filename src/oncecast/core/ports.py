"""The doors between services and the world: what a journal, a lease store and an event store must do.

Every adapter, in memory or real, passes the conformance suite of its port. Adapters translate their library's
errors into those of `core.errors`, and bound every call by a deadline of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from oncecast.core.attempts import FailedAttempt
from oncecast.core.cursors import Save, SavedCursor
from oncecast.core.dead_letter_ports import DeadLetter
from oncecast.core.errors import JournalUnavailable
from oncecast.core.event import Arrival, Cursor
from oncecast.core.leases import Claims
from oncecast.core.outcomes import DeadLettered, EarlierAttempts, Outcome
from oncecast.core.transaction import OpenTransaction
from oncecast.core.wire import Epoch

# --- journal ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """A row of the journal: `count` events, dense from `first_offset`; `body` is their JSON array.

    That of a *gap* is empty: an operator has skipped events that could not be read any more.
    """

    first_offset: int
    count: int
    at_us: int
    body: bytes

    @property
    def last_offset(self) -> int:
        """The offset of its last event."""
        return self.first_offset + self.count - 1

    @property
    def is_gap(self) -> bool:
        """Whether its events are gone."""
        return self.body == b"[]"


@dataclass(frozen=True, slots=True)
class KnownGroup:
    """A group that reads the journal: up to `saved` PostgreSQL has all of its rows, in this journal's offsets.

    `unseen_s` is for how long the producer ran without a listener of it. One that is `forgotten` holds nothing back.
    """

    name: str
    saved: int
    unseen_s: float = 0.0
    forgotten: bool = False


class Journal(Protocol):
    """A producer's durable log. Offsets are dense from 1."""

    @property
    def name(self) -> str:
        """Drawn when the journal was made; stays with its file."""

    @property
    def key(self) -> str:
        """A secret, drawn with the name: who shows it speaks for this journal."""

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All openings, oldest first; the last is this one."""

    @property
    def first(self) -> int:
        """The oldest offset that can be read."""

    @property
    def last(self) -> int:
        """The newest offset on disk; `first - 1` while it is empty."""

    @property
    def used_bytes(self) -> int:
        """What its events take up, about."""

    @property
    def groups(self) -> Mapping[str, KnownGroup]:
        """The groups that it has been told of, by name."""

    @property
    def failing(self) -> JournalUnavailable | None:
        """Why it accepts nothing now; None while it works."""

    @property
    def damage(self) -> str | None:
        """Which of the offsets that it keeps were found to be unreadable; None while all could be read."""

    async def append(self, events: Sequence[bytes]) -> int:
        """Write `events` (structured JSON each) and sync; returns the first's offset, the rest follow densely.

        Appends that wait at the same time share a commit. Raises JournalFull or JournalUnavailable: then
        nothing of it was accepted.
        """

    async def read(self, after: int, max_bytes: int, max_events: int | None = None) -> list[JournalBatch]:
        """Batches after offset `after`, in order, up to `max_bytes` but at least one if there is one.

        With `max_events` it reads no further than needed for so many events behind `after`.

        The first may begin at or before `after`. Raises JournalCorrupt naming the offsets.
        """

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """Remember these, each instead of what was known by its name. Raises as `append` does."""

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Let go of the oldest batches up to offset `upto`: those from before `before_us` (Unix time in µs), and
        more of them while more than `keep_bytes` are used. The newest batch always stays.

        Raises as `append` does; some may be gone then.
        """

    def on_commit(self, callback: Callable[[Sequence[JournalBatch]], None]) -> None:
        """Have `callback` called on the event loop with every committed run of batches, in order."""


# --- leases -------------------------------------------------------------------------------------------------


class Leases(Protocol):
    """Who handles which event for now. It spares work and proves nothing: every answer may be stale.

    No call changes an arrival. All raise Unavailable when Redis is down, slow or refuses, within a second or two.
    """

    @property
    def token(self) -> str:
        """This process's own, drawn at its start."""

    async def claim(self, arrivals: Sequence[Arrival]) -> Claims:
        """Take what is free, for `LEASE_TTL`."""

    async def retake(self, arrivals: Sequence[Arrival]) -> Claims:
        """As `claim`, where marks prove nothing: what is marked at this very place is taken, too."""

    async def look(self, arrivals: Sequence[Arrival]) -> Claims:
        """See who has what, taking nothing."""

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        """These have ended: turn our own leases of them into marks; another's stay untouched."""

    async def release(self, arrivals: Sequence[Arrival]) -> int:
        """Hand back our own leases of these; returns how many there were."""

    async def take_over(self, arrivals: Sequence[Arrival], holder: str, *, died: bool) -> int:
        """Free those that `holder` still has, and count that if it is known to have `died`; returns how many.

        The listener that claims one learns the count as `Claims.takeovers`. From QUARANTINE_AFTER_TAKEOVERS on it
        only goes up where the lease owner had recorded that it ran the event alone: other deaths had other causes.
        """

    async def begin_isolated(self, arrival: Arrival, isolated: bool) -> None:
        """Record in our own lease of this quarantined event whether we run it alone from now on."""

    async def renew(self, arrivals: Sequence[Arrival]) -> None:
        """Have our own leases of these last `LEASE_TTL` from now."""

    async def heartbeat(self) -> None:
        """Move our counter: we are alive."""

    async def counters(self, tokens: Sequence[str]) -> Mapping[str, int | None]:
        """The counters of these holders."""

    async def close(self) -> None:
        """Drop the connections."""


# --- events -------------------------------------------------------------------------------------------------


class Sessions(Enum):
    """What the database sessions of a holder show when its heartbeat has stopped."""

    NONE = "none"
    """Its process is gone: the system that it ran on has closed its connections."""
    SILENT = "silent"
    """Its connections are open, but it has begun no statement lately: it is stopped, or cut off. They were ended."""
    IN_USE = "in use"
    """It has begun a statement lately: it lives, and does not reach Redis. They were left alone."""


Work = Callable[[OpenTransaction], Awaitable[None]]
"""What is run for an event on the transaction that ends it."""
WorkTogether = Callable[[OpenTransaction, Sequence[Arrival]], Awaitable[None]]
"""What is run for those of several events that are new, on the transaction that ends them all."""


class CrashLog(Protocol):
    """What listeners' processes died of, counted where Redis cannot: by whoever comes next under the same name.

    All calls raise Unavailable when PostgreSQL is down or slow.
    """

    async def register_process(self) -> bool:
        """This listener's process begins; returns whether the one before it ended without a word.

        What that one had accused, it died of: that is counted.
        """

    async def unregister_process(self) -> None:
        """This listener's process ends in order."""

    async def begin_isolated(self, arrival: Arrival) -> int:
        """This process attempts this suspect alone, and no other, from now on; how many have died of it so far."""

    async def end_isolated(self, arrival: Arrival) -> None:
        """This process has attempted it, and lives."""


Publish = Callable[[Sequence[bytes]], Awaitable[None]]
"""Has events (structured JSON) accepted by a producer, in their order, again and again under the same ids; raises
Unavailable where it cannot be known that all were, EmissionRefused where the producer will never take one."""


class Outbox(Protocol):
    """The events that handlers emitted, until a producer has them. Raises Unavailable as all do."""

    async def relay(self, publish: Publish, *, limit: int, max_bytes: int, within_s: float) -> int:
        """Have `publish` bring the oldest, then let go of them; how many that were.

        It reads up to `limit`, of up to `max_bytes` together, but at least one. `publish` has to return within
        `within_s`: so long the transaction lasts, however little time handlers have for theirs.
        0 if there are none, or another listener of the group is at it. One that is refused is put aside, with the
        reason; those before it in the same call are kept, to be published again. Raises what `publish` does, too.
        """


class EventStore(Protocol):
    """Where events end: PostgreSQL makes the promise true.

    All calls raise Unavailable when it is down or slow; the outcome of a write is then unknown.
    """

    @property
    def ready_ahead(self) -> int:
        """So many calls of `process` beyond those that may run at a time are welcome to wait: they begin sooner."""

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        """End a batch that no handler is concerned with, in one transaction; outcomes in the batch's order.

        An event stays out if `Arrival.attempts`, the number of this attempt, does not exceed its failed attempts.
        Raises DataRefused if any one cannot be stored, RowLocked if another session holds any: then none is.
        """

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        """End one event together with what `work` writes. `work` does not run unless the row is new.

        Raises what `work` raises (then nothing is kept), AttemptFailed if the transaction was not ours to
        the end, and what `insert` raises; NotNext if the event has a turn, and that has not come.
        """

    async def process_together(
        self, arrivals: Sequence[Arrival], work: WorkTogether
    ) -> list[Outcome | EarlierAttempts]:
        """End several events of one epoch together with what `work` writes for those whose rows are new.

        All in one transaction, or none. Raises what `process` does. None of them has a turn.
        """

    async def compare(self, arrivals: Sequence[Arrival]) -> list[Outcome | None]:
        """Compare arrivals with the rows of their identities, and keep the conflicts; None where there is no row."""

    async def count_failure(self, failure: FailedAttempt) -> int:
        """Count a failed attempt; returns how many of its event there are. Safe to call again with the same failure.

        The event's end takes the count away. Raises RowLocked while another session attempts the event.
        """

    async def prune_attempts(self, *, overdue_s: float) -> int:
        """Delete the counts of events that have ended, or whose next attempt is overdue by more; return how many."""

    async def dead_letter(self, arrival: Arrival, cause: BaseException) -> DeadLettered:
        """End one event as dead, with its cause, unless it has ended before. Raises NotNext as `process` does."""

    async def unlogged(self, limit: int) -> list[DeadLetter]:
        """This listener's oldest dead letters whose line has not been written yet."""

    async def mark_logged(self, dead_letters: Sequence[DeadLetter]) -> None:
        """The lines of these are on disk."""

    async def register_handlers(self, selectors: frozenset[str], *, force: bool) -> frozenset[str]:
        """Record `selectors` as the group's newest where `decide_registration` says so; return what they lack of it.

        Nothing is inserted in the name of a record that is not the newest: inserts raise RowLocked then. Raises
        RowLocked if another listener has written a record at the same time.
        """

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        """The hash of the key with which the group first met this journal; `key_hash` if it meets it now."""

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        """The group's cursor in this journal."""

    async def save_cursor(
        self,
        journal: str,
        epochs: Sequence[Epoch],
        ended: Sequence[Arrival],
        *,
        position: Cursor,
    ) -> Save:
        """Advance the group's cursor over those of `ended` (by offset, dense after `position`) that have rows.

        `position` is the cursor that the caller knows to be saved. Skips when another listener is at it, or where the
        cursor was saved with an opening that the caller has not heard of: it may be the one that knows a lost future.
        """

    async def begin_cursor(self, journal: str, epochs: Sequence[Epoch], at: Cursor) -> None:
        """Have a group that has no cursor in this journal begin after `at`."""

    async def adopt_cursor(self, journal: str, epochs: Sequence[Epoch], *, instead_of: Sequence[Epoch]) -> None:
        """The openings `instead_of`, with which the group's cursor was saved, are a lost future of the journal's.

        Puts the cursor in terms of `epochs`, unless it has other openings by now. Raises RowLocked too.
        """

    async def pass_gap(
        self, journal: str, epochs: Sequence[Epoch], *, first: int, reason: str, after: int = 0
    ) -> Cursor | None:
        """The journal can serve offsets from `first` on: note as a gap what lies between it and the group's cursor,
        and move that over it, in one transaction; returns where it stands then.

        A cursor that is not yet at `after` stays. None if the group has none, or one that was saved with an opening
        that the caller has not heard of. Raises RowLocked too.
        """

    async def prune(self, *, older_than_s: float, limit: int) -> int:
        """Delete up to `limit` of the oldest stored rows that are that old and below the saved cursors; how many."""

    async def count_prunable(self, *, older_than_s: float) -> int:
        """How many rows `prune` would delete."""

    async def probe(self, *, writes: bool = True) -> None:
        """Ask on a fresh connection whether writes are taken; with `writes`, write. Raises RowLocked too."""

    async def renew(self) -> None:
        """After a time of trouble: use none of the connections from before again."""

    async def end_sessions(self, token: str, *, silent_s: float) -> Sessions:
        """End the database sessions of the holder `token`, so that its locks go; returns what they show.

        They stay if it has begun a statement within the last `silent_s`.
        """

    async def close(self) -> None:
        """Close all connections."""
