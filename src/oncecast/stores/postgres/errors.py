"""Translate PostgreSQL's errors: is the event, its handler or the database at fault?"""

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
"""Data exceptions, violated constraints, exceeded limits: this row cannot be inserted, but others can."""

CONTENT_CLASSES = ("22", "54")
"""The DATA_CLASSES that depend on the event's content alone; a constraint may depend on other rows."""

PAUSE_STATES = ("25006", "40", "53100", "53200", "53300", "57", "58000", "58030", "F0", "XX001", "XX002")
"""Prefixes of the SQLSTATEs of database failures: read-only, serialization and deadlock, disk, memory, connections,
shutdown, system, input and output, configuration, corruption. Other errors of a handler's SQL are the handler's own:
a foreign server that is down, a SET that comes too late, an extension that fails on this data."""

TRANSACTION_CONFLICT_STATES = ("40001", "40P01")
"""A serialization failure or a deadlock with another transaction."""

IDLE_STATE = "25P03"
"""PostgreSQL ended a session that was idle in a transaction for too long, because the event loop was blocked. The
database works, so this causes no pause."""

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
    """Return the error of `core.errors` for one of DATABASE_ERRORS from a statement of Oncecast's."""
    if not isinstance(error, psycopg.Error):
        return Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": "))
    state = error.sqlstate or ""
    if state in ("26000", "42P05"):  # a prepared statement of another server process, or of another connection
        return Unavailable(f"PostgreSQL: {SessionShared(_words(error))}")
    if not state and isinstance(error, psycopg.DataError):
        return Unstorable(_first_line(error))  # psycopg refused it before sending
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
    """Return Unstorable if PostgreSQL cannot store the content of an event's row; else `error`."""
    if (error.sqlstate or "")[:2] in CONTENT_CLASSES or isinstance(error, psycopg.DataError):
        return Unstorable(_first_line(error))
    return error


def handler_error(
    error: Exception, raised: Sequence[BaseException], *, connection_broken: bool, interrupted: bool = False
) -> Exception:
    """Return the error that decides a handler's attempt: its own, or one that spends no attempt.

    A database failure, a lock time-out, a lost connection and a statement cancelled by an administrator spend no
    attempt (`interrupted`, even if the handler caught that error). A statement that took too long does. `raised` are
    the errors of the transaction's statements: other PostgreSQL errors come from another server of the handler's.
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
    """Return whether another session cancelled the statement (pg_cancel_backend), not its `statement_timeout`.

    Both have the same SQLSTATE; only the message differs. If it is translated, a statement that ended before its
    time-out was cancelled.
    """
    if not isinstance(error, psycopg.errors.QueryCanceled):
        return False
    words = str(error)
    if "statement timeout" in words:
        return False
    # rule: a statement that an administrator cancels spends no attempt
    return "user request" in words or took_s < timeout_s


def is_stale_plan(error: BaseException) -> bool:
    """Return whether a schema change invalidated a prepared statement; older connections have the same problem."""
    return isinstance(error, psycopg.errors.FeatureNotSupported) and (
        error.diag.source_function == "RevalidateCachedQuery"
    )


def _first_line(error: psycopg.Error) -> str:
    return f"PostgreSQL: {_words(error)}"


def _words(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
