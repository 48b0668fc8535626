"""What can go wrong, in our own words: adapters translate their library's errors into these at the edge.

`classify` is the one place that decides what an error costs: the event an attempt, the system a pause, or the
event its life.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import Enum
from math import inf, nan
from typing import Any

from oncecast.core.durations import duration_s


def _rebuilt(kind: type[Exception], args: tuple[object, ...], members: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error


class Portable(Exception):
    """Can be copied, and pickled: a worker process may have to hand it to another."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


class OncecastError(Exception):
    """The base class of all errors that Oncecast raises on purpose. Its text is for people."""


class ConfigError(OncecastError):
    """A setting or a handler is wrong. The text names it, its value (never a secret), and what is expected."""


class StartError(OncecastError):
    """The process cannot start: for example, a port or folder is in use, or a handler is missing."""


class Unavailable(OncecastError):
    """A dependency is down, refuses for reasons of its own, or did not answer in time.

    The outcome of what was asked may be unknown: whoever asks again must look first.
    """


class TransactionConflict(Unavailable):
    """PostgreSQL ended the transaction for the sake of another one: a deadlock, or a serialisation failure."""


class DataRefused(OncecastError):
    """PostgreSQL refuses what this event holds; another event would have gone in."""


class Unstorable(DataRefused):
    """PostgreSQL can never hold this event's row: another attempt would end the same way."""


class IdentityTaken(OncecastError):
    """An event of this source has this id already."""


class InvalidPageMark(OncecastError, ValueError):
    """A text that is not the `next` of a page."""


class RowLocked(OncecastError):
    """Another session's open transaction holds this identity: it will end, here or there; ask again later."""


class LockTimeout(RowLocked):
    """A handler's statement waited in vain for a lock that another's open transaction has."""


class NotNext(RowLocked):
    """An ordered event whose turn has not come: another of its key is under way, or the one before has no row."""


class AttemptFailed(OncecastError):
    """The attempt did not end as one transaction of ours, though the handler raised nothing."""


class HandlerTimeout(TimeoutError):
    """A handler took longer than it may. Whatever else has failed since is a consequence of that."""


HandlerTimeout.__name__ = "TimeoutError"  # the name that people know


class NoThread(OncecastError):
    """As many threads of plain `def` handlers as may run on beyond their time do so: no attempt is begun for now."""


class AttemptsSpent(OncecastError):
    """The last attempt failed in a process that ended before the dead letter was written; its text is that error."""


class CrashLoop(OncecastError):
    """Process after process died while it attempted this event alone."""


class CalledNextTwice(OncecastError):
    """Middleware awaited `call_next()` a second time, so the handler would have taken effect twice."""


class TransactionClosed(OncecastError):
    """A handler used its transaction beyond its attempt, or tried to end it itself."""


class JournalUnavailable(OncecastError):
    """The journal could not take or give events: the disk failed, or is being checked."""


class JournalMisplaced(JournalUnavailable):
    """A file of the journal was deleted, moved or replaced: the next start would not find what is written now."""


class JournalFull(JournalUnavailable):
    """The journal has no room: its cap or the disk is reached."""


class JournalCorrupt(JournalUnavailable):
    """What the journal holds fails its checksum; names the offsets, of which `last` is the last."""

    def __init__(self, reason: str, last: int = 0) -> None:
        super().__init__(reason)
        self.last = last


class EmissionRefused(OncecastError):
    """A producer will never take the event at `index` of those that were published."""

    def __init__(self, reason: str, index: int) -> None:
        super().__init__(reason)
        self.index = index


class Reject(Exception):
    """Raise this in a handler to make the event a dead letter at once, with this reason."""


class DataInvalid(Reject):
    """The event's data does not fit the types of its handler. The text names the path in the data."""


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


def error_text(error: BaseException) -> str:
    """The error as dead letters, logs and lists show it."""
    return str(error) if isinstance(error, AttemptsSpent) else f"{type(error).__name__}: {error}"


def root_error(error: Exception, raised: Sequence[BaseException]) -> Exception:
    """What a handler's error comes to; `raised` is what the statements of its transaction have raised.

    A TaskGroup's group of errors comes to the one that counts: a Reject, what its transaction raised first, or the
    only one. Where one of our own comes from elsewhere (another system is Unavailable), it is like any other.
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
    """What to do after `error`: RETRY spends an attempt of the event, DEAD all of them; PAUSE and WAIT none.

    PAUSE is for a dependency that is down: the event is kept until it is back. WAIT is for an event that is
    another's for now, or waits for a thread.
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
