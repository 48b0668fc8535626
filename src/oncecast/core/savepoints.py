"""Which savepoints of a transaction are open, and whether what is done meanwhile stands in their blocks.

A savepoint that is rolled back takes with it whatever was written since it was opened, another task's work too: that
must not be committed as if it were whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

WITHIN: ContextVar[tuple[int, ...]] = ContextVar("within", default=())
"""The savepoints in whose blocks a task of a handler is, outermost first; so are the tasks that it begins there."""
MIXED = "a savepoint was rolled back with what another task wrote meanwhile"

_only_reads = re.compile(
    r"\s*(?:select|show|values|table)\b(?!.*\sfor\s+(?:no\s+key\s+)?(?:update|(?:key\s+)?share)\b)",
    re.IGNORECASE | re.DOTALL,
).match


class Savepoints:
    """Those of one transaction, by number."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[int] = []
        self._mixed: set[int] = set()

    def new(self) -> int:
        """The number of one that is about to be opened."""
        self._count += 1
        return self._count

    @contextmanager
    def block_of(self, number: int) -> Iterator[None]:
        """It is open, and what is done here, and by tasks that are begun here, is its own."""
        outer = WITHIN.get()
        self._open.append(number)
        WITHIN.set((*outer, number))
        try:
            yield
        finally:
            self._open.remove(number)
            WITHIN.set(outer)

    def note(self, query: str = "") -> None:
        """Something is done now; a statement that only reads leaves nothing to lose."""
        if self._open and not (query and _only_reads(query)):
            self._mixed.update(set(self._open).difference(WITHIN.get()))

    def is_mixed(self, number: int) -> bool:
        """Whether there is something in it that was not done in its block."""
        return number in self._mixed
