"""The transaction that a handler writes on, which also ends its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

Params = Sequence[Any] | Mapping[str, Any] | None


class Transaction(Protocol):
    """The transaction of a handler: it commits with the event's row, or not at all.

    It can be used until the attempt ends. Parameters are `%s` with a sequence, or `%(name)s` with a mapping. Each
    call runs one statement.
    """

    async def execute(self, query: str, params: Params = None) -> int:
        """Run one statement, and return the number of affected rows."""

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement, and return the first row by column name, or None."""

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement, and return all rows by column name."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Open a savepoint: if the block raises or is cancelled, only the block is rolled back."""


class SyncTransaction(Protocol):
    """A `Transaction` for a handler that is a plain `def`: the same methods, without `await`."""

    def execute(self, query: str, params: Params = None) -> int:
        """Run one statement, and return the number of affected rows."""

    def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement, and return the first row by column name, or None."""

    def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement, and return all rows by column name."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Open a savepoint: if the block raises, only the block is rolled back."""


RAISED_KEPT = 100
"""How many errors are kept: a handler may catch any number of them in one transaction."""


class OpenTransaction(Transaction, Protocol):
    """The transaction that an event store passes to an attempt."""

    @property
    def emitted(self) -> list[bytes]:
        """Follow-ups as structured JSON, in order; at the end of the attempt they go into the outbox.

        Rolling back a savepoint removes the follow-ups emitted in it.
        """

    @property
    def raised(self) -> Sequence[BaseException]:
        """The last RAISED_KEPT errors that its statements have raised."""

    async def take(self, key: str) -> None:
        """Lock an ordered key until the transaction ends. Raises NotNext if another transaction has it."""
