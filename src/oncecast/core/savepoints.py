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
"""What may stand before a parenthesis in a statement that only reads; any other function may write."""


class Savepoints:
    """Those of one transaction, by number."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[int] = []
        self._mixed: set[int] = set()
        """Those with something in them that was not done in their blocks."""
        self._lost = False

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
        """Something is done now; a statement that surely only reads leaves nothing to lose."""
        if self._open and not (query and only_reads(query)):
            self._mixed.update(set(self._open).difference(WITHIN.get()))

    def undone(self, number: int) -> None:
        """It was rolled back, with all that is in it."""
        self._lost = self._lost or number in self._mixed

    @property
    def fault(self) -> str | None:
        """Why its transaction must not commit, if that is so."""
        return MIXED if self._lost else STILL_OPEN if self._open else None


def only_reads(query: str) -> bool:
    """Whether the statement writes nothing and takes no lock, for sure."""
    return bool(_READS.match(query)) and all(name.lower() in _HARMLESS for name in _CALLED.findall(query))
