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

    @property
    def any_open(self) -> bool:
        """Whether any block goes on."""
        return bool(self._open)

    def is_mixed(self, number: int) -> bool:
        """Whether there is something in it that was not done in its block."""
        return number in self._mixed


def only_reads(query: str) -> bool:
    """Whether the statement writes nothing and takes no lock, for sure."""
    return bool(_READS.match(query)) and all(name.lower() in _HARMLESS for name in _CALLED.findall(query))
