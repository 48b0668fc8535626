"""The ports for dead letters: operations for operators, the dead-letter log, and the broker.

The rules for adapters in `core.ports` apply here too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from oncecast.core.dead_letters import CauseName, Identity, Selection, Time
from oncecast.core.event import Arrival
from oncecast.core.transaction import OpenTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that `listener` gave up on. `raw` is its structured JSON as received; `died_at` is RFC 3339."""

    source: str
    id: str
    error: str
    attempts: int
    raw: bytes
    died_at: str
    listener: str


ReplayWork = Callable[[Arrival, OpenTransaction], Awaitable[None]]
"""Runs the handlers of a replayed dead letter on the transaction that stores it."""


class Example(msgspec.Struct, frozen=True):
    """The identity of the newest dead letter of a cause."""

    source: str
    id: str


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters whose errors differ only in numbers and ids.

    In `error`, words with a digit and values behind `=` in quotes or brackets are replaced by `#`. `types` are up to
    five, the most frequent first. `example` is the newest dead letter, which died at `newest_at`.
    """

    cause: CauseName
    error: str
    dead_letters: int
    types: Sequence[str]
    newest_at: Time
    example: Example


class Causes(msgspec.Struct, frozen=True):
    """The number of the selected dead letters, their largest causes, and the number of the other causes."""

    dead_letters: int
    causes: Sequence[Cause]
    left_out: int


class DeadLetters(Protocol):
    """Dead letters for operators. All calls raise Unavailable if PostgreSQL is down or slow.

    The times of a selection are RFC 3339; `Selection.at` converts ages.
    """

    async def newest(self, selection: Selection, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return up to `limit` of `selection`, newest first, from the page mark `after` on.

        A failed replay does not change the order. Raises InvalidPageMark.
        """

    async def read(
        self, selection: Selection, *, limit: int, after: str | None = None, max_bytes: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return a page as `newest` does, with the details of `get`, and whether there may be more.

        The page has about `max_bytes` at most, but at least one dead letter.
        """

    async def causes(self, selection: Selection, *, limit: int) -> Causes:
        """Return the `limit` largest causes of the dead letters of `selection`."""

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """Return a dead letter, discarded or not, with its trace, its event as received and its edited data.

        None if the event is not dead.
        """

    async def edit(self, source: str, id: str, data: bytes) -> bool:
        """Have replays use the JSON text `data` instead of the event's data; return whether the dead letter exists.

        The event as received is kept. Raises DataRefused for data that cannot be stored.
        """

    async def reset(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Have replays use the events as received again; return those of `dead_letters` that are dead."""

    async def discard(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Exclude dead letters from lists and replays; return those that changed.

        Their rows are kept. Skips a dead letter that is being replayed.
        """

    async def restore(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Undo `discard`; return those that changed."""

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """Turn `dead` into `stored` together with what `work` writes; False if the event is not dead or is discarded.

        Locks the row, so that concurrent calls replay it once. Raises what `work` and `EventStore.process` raise. The
        event then stays dead; only after Unavailable the outcome is unknown.
        """

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """Record a failed replay: keep the newest cause, and count the attempt."""


class UnloggedDeadLetters(Protocol):
    """This listener's dead letters that are not in the dead-letter log yet. All calls raise Unavailable."""

    async def unlogged(self, limit: int) -> list[DeadLetter]:
        """Return up to `limit` of the oldest."""

    async def mark_logged(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Record that these dead letters are in the dead-letter log."""


class DeadLetterLog(Protocol):
    """A log that gets a line for every dead letter, after its row. Its `str` is a name for people."""

    async def append(self, lines: Sequence[bytes]) -> None:
        """Write `lines` durably. Raises Unavailable; any part of the lines may be written then."""


# --- on their way to a broker -----------------------------------------------------------------------------

OTHERS_AFTER_S = 60.0
"""How long a dead letter is reserved for the listener that wrote it or claimed it. Then any listener of the group may
forward it."""


class UnforwardedDeadLetters(Protocol):
    """The dead letters to forward: those that died since the group began to forward, and are not discarded.

    All calls raise Unavailable if PostgreSQL is down or slow.
    """

    async def begin(self) -> None:
        """Begin to forward the dead letters that are written from now on. Safe to repeat."""

    async def claim(self, limit: int) -> list[DeadLetter]:
        """Claim up to `limit` of the oldest: this listener's own, and other listeners' after OTHERS_AFTER_S.

        A claimed dead letter is not returned again within OTHERS_AFTER_S. Skips rows that another session has locked.
        """

    async def mark_forwarded(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Record that the broker has these. A dead letter whose row stays locked by another session stays unsent."""

    async def release(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Give up the claims on these: the next call of `claim` may return them."""

    async def count(self) -> int:
        """Return the number of the group's unsent dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterMessage:
    """A dead letter as it is sent to a broker; `body` is a JSON object."""

    source: str
    id: str
    body: bytes

    @property
    def digest(self) -> str:
        """A hash of the event's identity, the same each time it is sent, for brokers that limit message ids."""
        return sha256(f"{self.source}\0{self.id}".encode()).hexdigest()


class DeadLetterBroker(Protocol):
    """A broker that every dead letter is sent to. Its `str` is a name for people, without secrets."""

    @property
    def max_bytes(self) -> int:
        """The longest body that the broker accepts, as far as known."""

    async def open(self) -> None:
        """Connect, and check that the destination exists; do nothing while connected. Raises Unavailable."""

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        """Send `messages`; return for each None if the broker confirmed it, else the reason of its refusal.

        Raises Unavailable; any of the messages may have arrived then.
        """

    async def close(self) -> None:
        """Close the connection."""
