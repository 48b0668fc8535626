"""The results of events that a test has sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from oncecast.core.errors import OncecastError
from oncecast.core.transaction import Params
from oncecast.event import Event

Ending = Literal["stored", "dead", "duplicate", "conflict"]
ERROR_SHOWN_MAX = 200


class NotEnded(OncecastError):
    """A listener would keep the event and retry it without spending attempts, because of database errors."""


class Statement(NamedTuple):
    """A statement that a handler ran, with normalised white space."""

    query: str
    params: Params = None


@dataclass(slots=True, repr=False)
class Result:
    """The result of an event: its `outcome` after `attempts`.

    `error` is the last failure as text, `exception` the exception, and `failures` all failures. `waits_s` are the
    delays in which a listener would have waited before each further attempt. `emitted` are the emitted events that
    were committed; if they were followed, `followed` has their results. `statements` are those of the last attempt,
    including those of events in the same transaction; if it failed, they were rolled back. `handlers` are the names
    of the event's handlers.
    """

    event: Event
    outcome: Ending = "stored"
    attempts: int = 0
    failures: list[str] = field(default_factory=list)
    exception: BaseException | None = None
    waits_s: list[float] = field(default_factory=list)
    emitted: list[Event] = field(default_factory=list)
    followed: list[Result] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    @property
    def error(self) -> str | None:
        """The last failure as text; None if no attempt failed."""
        return self.failures[-1] if self.failures else None

    @property
    def is_stored(self) -> bool:
        """Whether the event was stored."""
        return self.outcome == "stored"

    def raise_if_dead(self) -> Result:
        """Raise the exception that the event, or an event that it emitted, died of. Otherwise return the result."""
        if self.outcome == "dead" and self.exception is not None:
            raise self.exception
        for result in self.followed:
            result.raise_if_dead()
        return self

    def __repr__(self) -> str:
        return f"<{'; '.join(self._described())}>"

    def _described(self) -> Iterator[str]:
        plural = "" if self.attempts == 1 else "s"
        yield f"{self.event.type} {self.event.id}: {self.outcome} after {self.attempts} attempt{plural}"
        if self.waits_s:
            yield f"waits {', '.join(f'{wait_s:g} s' for wait_s in self.waits_s)}"
        if self.error:
            yield self.error if len(self.error) <= ERROR_SHOWN_MAX else f"{self.error[:ERROR_SHOWN_MAX]}…"
        if self.emitted:
            yield f"emitted {', '.join(event.type for event in self.emitted)}"
        if not self.handlers:
            yield "no handler is for it"
