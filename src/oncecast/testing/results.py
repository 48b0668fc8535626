"""What became of an event that a test has sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from oncecast.core.event import Event
from oncecast.testing.scripted import Statement

Ending = Literal["stored", "dead", "duplicate", "conflict"]


@dataclass(slots=True)
class Result:
    """How an event ended: `outcome` after so many `attempts`.

    `error` is the last failure as a listener tells it, `failures` all of them; `waits_s` is how long a listener
    would have waited before each further attempt. `emitted` are the follow-ups that were committed, and `statements`
    what the last attempt ran (in memory; a real PostgreSQL is asked for what is there).
    """

    event: Event
    outcome: Ending
    attempts: int = 0
    failures: list[str] = field(default_factory=list)
    exception: BaseException | None = field(default=None, repr=False)
    """Why it is dead."""
    waits_s: list[float] = field(default_factory=list)
    emitted: list[Event] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)

    @property
    def error(self) -> str | None:
        """The last failure; None if no attempt failed."""
        return self.failures[-1] if self.failures else None

    @property
    def is_stored(self) -> bool:
        """Whether its row says `stored`."""
        return self.outcome == "stored"

    def raise_if_dead(self) -> Result:
        """Raise what the event died of, if it died; else this."""
        if self.exception is not None:
            raise self.exception
        return self
