"""What a handler writes on: the transaction that ends its event."""

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
        """Have an ordered key to this transaction alone until it ends; raises NotNext where another has it."""
