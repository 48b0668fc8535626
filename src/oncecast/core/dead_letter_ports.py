"""The doors to dead letters: those for operators, the log that gets a line of each, and the broker that gets each.

What `core.ports` says of adapters is true of these too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from oncecast.core.dead_letters import Identity, Selection
from oncecast.core.event import Arrival
from oncecast.core.transaction import OpenTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event given up on by `listener`. `raw` is its structured JSON as it was received; `died_at` is RFC 3339."""

    source: str
    id: str
    error: str
    attempts: int
    raw: bytes
    died_at: str
    listener: str


ReplayWork = Callable[[Arrival, OpenTransaction], Awaitable[None]]
"""What is run for a dead letter that is replayed: its handlers, on the transaction that stores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Dead letters whose errors differ in nothing but numbers and ids.

    `error` is what they have in common, with `#` where they differ; `types` are up to five, the most frequent first;
    `example` is the newest, which died at `newest_at`.
    """

    cause: str
    error: str
    dead_letters: int
    types: Sequence[str]
    newest_at: str
    example: Identity


class Causes(NamedTuple):
    """How many dead letters there are, of how many causes, and the largest of these."""

    dead_letters: int
    causes: int
    largest: Sequence[Cause]


class DeadLetters(Protocol):
    """Dead letters for operators. All calls raise Unavailable when PostgreSQL is down or slow.

    The times of a selection are RFC 3339: `Selection.at` has turned ages into such.
    """

    async def newest(self, selection: Selection, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Up to `limit` of `selection`, newest first, behind the page mark `after`.

        A failed replay moves none. Raises InvalidPageMark.
        """

    async def read(
        self, selection: Selection, *, limit: int, after: str | None = None, max_bytes: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """As `newest`, each with all that `get` tells, up to about `max_bytes` but at least one; and whether there
        may be more.
        """

    async def causes(self, selection: Selection, *, limit: int) -> Causes:
        """What the letters of `selection` died of, the largest `limit` causes."""

    async def get(self, source: str, id: str) -> dict[str, Any] | None:
        """One with its trace, its event as it was received, and its mended data; discarded or not.

        None if it is not dead.
        """

    async def edit(self, source: str, id: str, data: bytes) -> bool:
        """Have replays use `data`, a JSON text, instead of the event's; whether there was such a dead letter.

        The event as it was received is kept. Raises DataRefused for what cannot be stored.
        """

    async def reset(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Have replays use the events as they were received again; returns which of `letters` are dead."""

    async def discard(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Have these neither listed nor replayed any more; returns which of `letters` that has changed.

        Their rows are kept. One that is being replayed is left alone.
        """

    async def restore(self, dead_letters: Sequence[Identity]) -> set[Identity]:
        """Undo `discard`; returns which of `letters` that has changed."""

    async def replay(self, source: str, id: str, work: ReplayWork) -> bool:
        """Turn `dead` into `stored` together with what `work` writes; False if it is not, or no longer, dead, or
        was discarded.

        Under the row's lock, so that twice asked is once done. Raises what `work` raises, and what
        `EventStore.process` does: then it is as dead as before, except that Unavailable leaves it open.
        """

    async def note_failure(self, source: str, id: str, cause: BaseException) -> None:
        """A replay failed: keep the newest cause, and count the attempt."""


class DeadLetterLog(Protocol):
    """Where a line of every dead letter goes, after its row. As text it is its name, for people."""

    async def append(self, lines: Sequence[bytes]) -> None:
        """Write `lines` durably; raises Unavailable, and then any part of them may be there."""


# --- on their way to a broker -----------------------------------------------------------------------------

OTHERS_AFTER_S = 60.0
"""For so long a dead letter is left to the listener that buried it, and a claimed one to whoever claimed it; then
any listener of the group may send it."""


class UnforwardedDeadLetters(Protocol):
    """The dead letters that are to be sent: those that died since the group's sending began, and are not discarded.

    All calls raise Unavailable when PostgreSQL is down or slow.
    """

    async def begin(self) -> None:
        """From now on, unless it has begun before, dead letters are to be sent."""

    async def claim(self, limit: int) -> list[DeadLetter]:
        """Up to `limit` of the oldest for this listener to send: its own, and those of others after OTHERS_AFTER_S.

        Nobody is given them again within OTHERS_AFTER_S. One whose row another session is at is passed over for now.
        """

    async def mark_forwarded(self, dead_letters: Sequence[DeadLetter]) -> None:
        """The broker has them; one whose row another session keeps locked stays unsent."""

    async def release(self, dead_letters: Sequence[DeadLetter]) -> None:
        """They could not be sent for now: whoever asks next may be given them."""

    async def count(self) -> int:
        """How many of the group's are unsent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterMessage:
    """A dead letter as a broker is given it; `body` is a JSON object."""

    source: str
    id: str
    body: bytes

    @property
    def digest(self) -> str:
        """Of its identity, for where a message's own name is short and plain: the same whenever it is sent."""
        return sha256(f"{self.source}\0{self.id}".encode()).hexdigest()


class DeadLetterBroker(Protocol):
    """Where every dead letter is sent. As text it is its name, for people: never a secret."""

    @property
    def max_bytes(self) -> int:
        """The longest body that it takes, as far as is known."""

    async def open(self) -> None:
        """Reach it, and see that there is where messages are to go; does nothing while it is reached.

        Raises Unavailable that says what is wrong.
        """

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        """For each of them None, once the broker has confirmed it, or else why the broker refuses it.

        Raises Unavailable, and then any of them may be there.
        """

    async def close(self) -> None:
        """Leave nothing behind."""
