"""The port to conflicts, for operators: other content under a used identity, kept instead of processed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.event import Cursor

ConflictState = Literal["open", "replayed", "discarded"]


class Conflicts(Protocol):
    """The conflicts of a group, each identified by its place in a journal.

    All calls raise Unavailable if PostgreSQL is down or slow.
    """

    async def newest(
        self,
        *,
        limit: int,
        state: ConflictState = "open",
        after: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` conflicts, newest first, from the page mark `after` on. Raises InvalidPageMark."""

    async def get(self, place: Cursor) -> dict[str, Any] | None:
        """Return a conflict with its event as received and the row that has its identity; None if there is none."""

    async def discard(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Close open conflicts without processing them, and return the closed ones. Their rows are kept.

        Skips a conflict that is being replayed.
        """

    async def restore(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Open discarded conflicts again, and return them."""

    async def replay(self, place: Cursor, new_id: str, work: ReplayWork) -> bool:
        """Store the event as `new_id` together with what `work` writes, and close the conflict; False if not open.

        All in one transaction that locks the conflict's row, so that a second call finds it replayed. Raises
        IdentityTaken if the source already has an event `new_id`, and what `work` and EventStore.process raise. The
        conflict then stays open; only after Unavailable the outcome is unknown.
        """
