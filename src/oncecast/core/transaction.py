"""What a handler writes on: the transaction that ends its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

Params = Sequence[Any] | Mapping[str, Any] | None


class Transaction(Protocol):
    """The transaction that an attempt's handler writes on: it commits with the event's row or not at all.

    It dies with its attempt. Statements take `%s` or `%(name)s` parameters; one statement a call.
    """

    async def execute(self, query: str, params: Params = None) -> int:
        """Run one statement; returns the number of rows that it touched."""

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """The first row by column name, or None."""

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """All rows by column name."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A stretch whose SQL errors the handler means to survive: on an exception it alone is rolled back."""


class SyncTransaction(Protocol):
    """The same for a handler that is a plain `def`: its calls wait in the handler's own thread."""

    def execute(self, query: str, params: Params = None) -> int:
        """Run one statement; returns the number of rows that it touched."""

    def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """The first row by column name, or None."""

    def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """All rows by column name."""

    def savepoint(self) -> AbstractContextManager[None]:
        """A stretch whose SQL errors the handler means to survive: on an exception it alone is rolled back."""


RAISED_KEPT = 100
"""A handler may survive any number of errors in a transaction."""


class OpenTransaction(Transaction, Protocol):
    """What an event store gives to an attempt."""

    @property
    def emitted(self) -> list[bytes]:
        """Follow-ups as structured JSON, in their order: what stands here at the end goes into the outbox.

        A savepoint that is rolled back takes its own out again.
        """

    @property
    def raised(self) -> Sequence[BaseException]:
        """What its own statements have raised so far: the last RAISED_KEPT of them."""

    async def take(self, key: str) -> None:
        """Have an ordered key to this transaction alone until it ends; raises OutOfTurn where another has it."""
