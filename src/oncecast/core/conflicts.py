"""Conflicts as operators see them: other content that came under a used identity, kept instead of processed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from oncecast.core.dead_letter_ports import ReplayWork
from oncecast.core.event import Cursor

ConflictState = Literal["open", "replayed", "discarded"]


class Conflicts(Protocol):
    """The conflicts of a group. Each is named by its place in a journal, which is unique.

    All calls raise Unavailable when PostgreSQL is down or slow.
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
        """Return up to `limit` conflicts, newest first, behind the page mark `after`. Raises InvalidPageMark."""

    async def get(self, place: Cursor) -> dict[str, Any] | None:
        """Return one with its event as it was received, and the row that has its identity; None if there is none."""

    async def count(self) -> int:
        """Return how many are open."""

    async def discard(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Close open conflicts without processing them; returns which. Their rows are kept.

        A conflict that is being replayed is left alone.
        """

    async def restore(self, places: Sequence[Cursor]) -> set[Cursor]:
        """Open discarded conflicts again; returns which."""

    async def replay(self, place: Cursor, new_id: str, work: ReplayWork) -> bool:
        """Store the conflict's event as `new_id`, with what `work` writes, and close the conflict, all in one
        transaction; False if it is not open.

        Under the row's lock, so that a second call finds it replayed. Raises IdentityTaken if its source has an
        event `new_id`, and what `work` and EventStore.process raise: then it is open as before, except that
        Unavailable leaves the outcome unknown.
        """
