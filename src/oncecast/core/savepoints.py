"""Track the open savepoints of a transaction, and detect statements of other tasks in them.

Rolling back a savepoint also undoes what other tasks of the handler wrote since it was opened. Such a transaction
must not commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

CURRENT_SAVEPOINTS: ContextVar[tuple[int, ...]] = ContextVar("current_savepoints", default=())
"""The savepoints whose blocks the current task is in, outermost first; tasks that it starts inherit them."""
MIXED = "a savepoint was rolled back together with writes of another task"
STILL_OPEN = "a savepoint was still open at the end"

_READS = re.compile(
    r"\s*(?:select|show|values|table)\b(?!.*\b(?:into\b|for\s+(?:no\s+key\s+)?(?:update|(?:key\s+)?share)\b))",
    re.IGNORECASE | re.DOTALL,
)
_CALLED = re.compile(r'([\w"]+)\s*\(')
_HARMLESS = frozenset(
    """
    abs avg cast coalesce count extract greatest least length lower max min now nullif round sum trim upper
    all and any as by distinct exists filter from having in join not on or over select using values where
    """.split()  # noqa: SIM905 - to be read as lines
)
"""Words that may precede a parenthesis in a statement that only reads; any other function may write."""


class Savepoints:
    """The savepoints of one transaction, by number."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[int] = []
        self._mixed: set[int] = set()
        """Open savepoints with statements that were not run in their blocks."""
        self._lost = False

    def new(self) -> int:
        """Return the number of the next savepoint."""
        self._count += 1
        return self._count

    @contextmanager
    def block_of(self, number: int) -> Iterator[None]:
        """Mark savepoint `number` as open within the block; statements of the block and its tasks belong to it."""
        outer = CURRENT_SAVEPOINTS.get()
        self._open.append(number)
        CURRENT_SAVEPOINTS.set((*outer, number))
        try:
            yield
        finally:
            self._open.remove(number)
            CURRENT_SAVEPOINTS.set(outer)

    def note(self, query: str = "") -> None:
        """Record a statement. One that certainly only reads is ignored: a rollback loses nothing of it."""
        if self._open and not (query and only_reads(query)):
            self._mixed.update(set(self._open).difference(CURRENT_SAVEPOINTS.get()))

    def undone(self, number: int) -> None:
        """Record that savepoint `number` was rolled back."""
        self._lost = self._lost or number in self._mixed

    @property
    def fault(self) -> str | None:
        """Why the transaction must not commit; None if it may."""
        return MIXED if self._lost else STILL_OPEN if self._open else None


def only_reads(query: str) -> bool:
    """Return whether the statement certainly writes nothing and takes no lock."""
    return bool(_READS.match(query)) and all(name.lower() in _HARMLESS for name in _CALLED.findall(query))
