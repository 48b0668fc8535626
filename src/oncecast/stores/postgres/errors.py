"""What an error of PostgreSQL means to us: whose fault it is, and so what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from oncecast.core.errors import (
    DataRefused,
    HandlerTimeout,
    LockTimeout,
    Reject,
    Retry,
    RowLocked,
    TransactionConflict,
    Unavailable,
    Unstorable,
)

DATA_CLASSES = ("22", "23", "54")
"""Data exceptions, broken constraints, limits exceeded: this row cannot go in, another could."""

CONTENT_CLASSES = ("22", "54")
"""Of DATA_CLASSES those that an event's content alone brings about; a constraint may depend on other rows."""

PAUSE_STATES = ("25006", "40", "53100", "53200", "53300", "57", "58000", "58030", "F0", "XX001", "XX002")
"""How the states begin that tell of the database's trouble: read-only, serialisation and deadlock, disk, memory,
connections, shutdown, system, input and output, configuration, corruption. In a handler's SQL all else is its own:
that a server behind its foreign table is away, that SET comes too late, that an extension fails on this data."""

TRANSACTION_CONFLICT_STATES = ("40001", "40P01")
"""A serialisation failure, a deadlock: another transaction was in the way."""

IDLE_STATE = "25P03"
"""PostgreSQL ended a session that was idle in a transaction for too long, because the event loop was blocked.
Nothing is wrong with the database, so nothing pauses."""

DATABASE_ERRORS = (psycopg.Error, PoolTimeout, PoolClosed, TooManyRequests, TimeoutError, OSError)


SESSION_POOLING = (
    "use session pooling (PgBouncer: pool_mode=session) or connect to PostgreSQL itself;"
    " see docs/how-to/connection-poolers.md"
)


class SessionShared(psycopg.OperationalError):
    """A connection has no server process of its own: there is a pooler in transaction or statement mode."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"DATABASE_URL leads to a pooler in transaction or statement mode ({found}): {SESSION_POOLING}"
        )


def translate(error: BaseException) -> Exception:
    """Our own error for one of DATABASE_ERRORS that a statement of ours raised."""
    if not isinstance(error, psycopg.Error):
        return Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": "))
    state = error.sqlstate or ""
    if state in ("26000", "42P05"):  # a prepared statement that another server process has, or that was another's
        return Unavailable(f"PostgreSQL: {SessionShared(_words(error))}")
    if not state and isinstance(error, psycopg.DataError):
        return Unstorable(_first_line(error))  # refused before it was sent
    if state == "55P03":
        return RowLocked(_first_line(error))
    if state == IDLE_STATE:
        return TransactionConflict(_first_line(error))
    if state[:2] in DATA_CLASSES:
        return DataRefused(_first_line(error))
    return (
        TransactionConflict(_first_line(error))
        if state in TRANSACTION_CONFLICT_STATES
        else Unavailable(_first_line(error))
    )


def insert_error(error: psycopg.Error) -> Exception:
    """The error of an insert of event rows: Unstorable where a row's own content is what PostgreSQL cannot hold."""
    if (error.sqlstate or "")[:2] in CONTENT_CLASSES or isinstance(error, psycopg.DataError):
        return Unstorable(_first_line(error))
    return error


def handler_error(
    error: Exception, raised: Sequence[BaseException], *, connection_broken: bool, interrupted: bool = False
) -> Exception:
    """The error of a handler, or our own for it where its SQL failed through the database's trouble.

    A statement of the handler's that took too long is its own, and one that an administrator cancelled is not: it
    has `interrupted` the transaction, whatever the handler made of that. One that waited too long for a lock may wait
    again; our lost connection says nothing about the event. `raised` is what the statements of the transaction
    raised: any other error of PostgreSQL's is that of a server of the handler's own.
    """
    if isinstance(error, HandlerTimeout):
        return error
    if connection_broken and not isinstance(error, Reject | Retry):
        if isinstance(error, psycopg.Error) and error.sqlstate == IDLE_STATE:
            return TransactionConflict(_first_line(error))
        return Unavailable(f"PostgreSQL: the connection was lost while a handler ran: {type(error).__name__}")
    if interrupted and not isinstance(error, Reject | Retry):
        return TransactionConflict("PostgreSQL: another session cancelled a statement of the handler")
    if not isinstance(error, psycopg.Error) or error.sqlstate in (None, "25P01", "25P02", "57014"):
        return error
    if error not in raised:
        return error
    if error.sqlstate == "55P03":
        return LockTimeout(_first_line(error))
    if error.sqlstate in TRANSACTION_CONFLICT_STATES:
        return TransactionConflict(_first_line(error))
    if is_stale_plan(error):
        return TransactionConflict(_first_line(error))
    return Unavailable(_first_line(error)) if error.sqlstate.startswith(PAUSE_STATES) else error


def is_interrupted(error: BaseException, *, took_s: float, timeout_s: float) -> bool:
    """Whether another session cancelled the statement (pg_cancel_backend), rather than its `statement_timeout`.

    The state is the same. PostgreSQL tells them apart by its words only, which may be translated: then a statement
    that ended before its time was cancelled.
    """
    if not isinstance(error, psycopg.errors.QueryCanceled):
        return False
    words = str(error)
    if "statement timeout" in words:
        return False
    # rule: a statement that an administrator cancels spends no attempt
    return "user request" in words or took_s < timeout_s


def is_stale_plan(error: BaseException) -> bool:
    """Whether a schema has changed under a statement that a connection had prepared: as with all that are as old."""
    return isinstance(error, psycopg.errors.FeatureNotSupported) and (
        error.diag.source_function == "RevalidateCachedQuery"
    )


def _first_line(error: psycopg.Error) -> str:
    return f"PostgreSQL: {_words(error)}"


def _words(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
