"""Oncecast's exceptions: adapters translate the errors of their libraries into these.

`classify` alone decides what an error costs: an attempt of the event, a pause, or a dead letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import Enum
from math import inf, nan
from typing import Any

from oncecast.core.durations import duration_s
from oncecast.core.telemetry import FailureReason


def _rebuilt(kind: type[Exception], args: tuple[object, ...], members: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error


class Portable(Exception):
    """An exception that can be copied and pickled, to pass it to another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


class OncecastError(Exception):
    """The base class of the errors that Oncecast raises. Its text is for people."""


class ConfigError(OncecastError):
    """A setting or a handler is wrong. The text names it, its value (never a secret), and what is expected."""


class StartError(OncecastError):
    """The process cannot start: for example, a port or folder is in use, or a handler is missing."""


class Unavailable(OncecastError):
    """A dependency is down, refuses all calls, or did not answer in time.

    The outcome of the call may be unknown: check it before trying again.
    """


class TransactionConflict(Unavailable):
    """PostgreSQL aborted the transaction because of another one: a deadlock, or a serialization failure."""


class DataRefused(OncecastError):
    """PostgreSQL refuses the content of this event; it would accept another event."""


class Unstorable(DataRefused):
    """PostgreSQL can never store this event: another attempt would fail in the same way."""


class IdentityTaken(OncecastError):
    """The source already has an event with this id."""


class InvalidPageMark(OncecastError, ValueError):
    """A page mark is not the `next` of a page."""


class RowLocked(OncecastError):
    """Another session's open transaction has locked the row or identity; try again later."""


class LockTimeout(RowLocked):
    """A handler's statement waited too long for a lock of another transaction."""


class NotNext(RowLocked):
    """An ordered event must wait: another event of its key is in progress, or the one before it has no row."""


class AttemptFailed(OncecastError):
    """The handler raised no ordinary error, but its attempt cannot be committed as one transaction."""


class HandlerTimeout(TimeoutError):
    """A handler took longer than HANDLER_TIMEOUT. Later errors of the attempt are a consequence."""


HandlerTimeout.__name__ = "TimeoutError"  # shown to users, who know this name


class NoThread(OncecastError):
    """Too many threads of `def` handlers still run after their time-out, so no attempt that needs one may begin."""


class AttemptsSpent(OncecastError):
    """The last attempt failed in a process that ended before it wrote the dead letter. The text is that error."""


class CrashLoop(OncecastError):
    """Several processes died while they attempted this event alone."""


class TransactionClosed(OncecastError):
    """A handler used its transaction after its attempt, or tried to end it."""


class JournalUnavailable(OncecastError):
    """The journal cannot write or read events: the disk failed, or is being checked."""


class JournalMisplaced(JournalUnavailable):
    """A file of the journal was deleted, moved or replaced, so that new events would be lost at the next start."""


class JournalFull(JournalUnavailable):
    """The journal has reached its size limit, or the disk is full."""


class JournalCorrupt(JournalUnavailable):
    """Events of the journal fail their checksum. The text names the offsets; `last` is the last of them."""

    def __init__(self, reason: str, last: int = 0) -> None:
        super().__init__(reason)
        self.last = last


class EmissionRefused(OncecastError):
    """A producer will never accept the event at `index` of a publication."""

    def __init__(self, reason: str, index: int) -> None:
        super().__init__(reason)
        self.index = index


class Reject(Exception):
    """Raise this in a handler to make the event a dead letter at once, with this reason."""


class DataInvalid(Reject):
    """The event's data does not match the types of its handler. The text names the path in the data."""


class Retry(Portable):
    """Raise this in a handler to retry the event after a delay.

    `after` is a duration such as `"30s"` or `"500ms"`, a timedelta, or a number of seconds. The attempt counts as
    failed; the handler only chooses the delay, at most RETRY_AFTER_MAX. Raises ValueError if `after` is not a
    duration.
    """

    def __init__(self, reason: str = "", *, after: str | float | timedelta) -> None:
        given: object = after
        match given:
            case str():
                self.after_s = duration_s(given)
            case timedelta():
                self.after_s = given.total_seconds()
            case int() | float():
                self.after_s = float(given)
            case _:
                self.after_s = nan
        if not 0 <= self.after_s < inf:
            raise ValueError(f"after={after!r}: a duration such as '30s', a timedelta, or a number of seconds")
        super().__init__(reason or f"the handler asked for another attempt after {after}")


def reason_of(error: BaseException) -> FailureReason:
    """Return why an attempt failed."""
    if isinstance(error, HandlerTimeout):
        return "timeout"
    if isinstance(error, DataInvalid | DataRefused):
        return "data"
    if isinstance(error, Retry | Reject):
        return "retry" if isinstance(error, Retry) else "rejected"
    return "database" if isinstance(error, Unavailable | RowLocked) else "handler"


def error_text(error: BaseException) -> str:
    """Return the text of `error` for dead letters, logs and lists."""
    return str(error) if isinstance(error, AttemptsSpent) else f"{type(error).__name__}: {error}"


def root_error(error: Exception, raised: Sequence[BaseException]) -> Exception:
    """Return the error that decides a handler's attempt; `raised` are the errors of its transaction's statements.

    Of an ExceptionGroup it is a Reject, else the first error of the transaction, else the only error, else the group.
    An Unavailable or RowLocked from elsewhere (such as another database) counts as an ordinary error.
    """
    leaves = list(_leaves(error))
    for counts in [leaf for leaf in leaves if isinstance(leaf, Reject)] + [one for one in raised if one in leaves]:
        if isinstance(counts, Exception):
            return counts
    only = leaves[0] if len(leaves) == 1 else error
    if isinstance(only, Unavailable | RowLocked):
        return AttemptFailed(f"{type(only).__name__}: {only}")
    return only


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


class Cost(Enum):
    """What an error costs."""

    RETRY = "retry"
    PAUSE = "pause"
    WAIT = "wait"
    DEAD = "dead"


def classify(error: BaseException) -> Cost:
    """Return the cost of `error`: RETRY spends one attempt of the event, DEAD all of them, PAUSE and WAIT none.

    PAUSE means that a dependency is down: keep the event until it is back. WAIT means that the event waits for
    another session or for a thread.
    """
    match error:
        case Unavailable():
            # rule: an error with an unknown outcome makes no dead letter
            return Cost.PAUSE
        case RowLocked() | NoThread():
            return Cost.WAIT
        case Reject() | CrashLoop() | Unstorable() | AttemptsSpent():
            return Cost.DEAD
        case _:
            return Cost.RETRY
