"""A PostgreSQL that knows no SQL: it answers what a test has told it to, and fails as the real one does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.adapt import PyFormat

from oncecast.core.transaction import Params
from oncecast.stores.postgres.transaction import refuse_transaction_control
from oncecast.testing.memory.postgres import MemoryPostgres, Session

ScriptedRow = Mapping[str, Any]
ScriptedAnswer = (
    int | ScriptedRow | Iterable[ScriptedRow] | BaseException | type[BaseException] | Callable[[Params], Any] | None
)

_PLACEHOLDER = re.compile(r"%(?:(%)|\((\w+)\)[sbt]|[sbt]|(.?))", re.DOTALL)
QUERY_SHOWN_MAX = 60


class Unanswered(AssertionError):
    """A handler fetched rows that the test has not answered."""


@dataclass(slots=True)
class Told:
    """An answer to statements that begin with the words `words`; to all of them, or those with just `params`."""

    words: str
    answer: ScriptedAnswer
    params: Params
    left: int | None
    """How often it is given yet; None: always."""

    def fits(self, words: str, params: Params) -> bool:
        """Whether it is the answer to this."""
        return (
            self.left != 0
            and words.startswith(self.words)
            and not re.match(r"\w", words[len(self.words) :] if self.words[-1:].isalnum() else "")
            and (self.params is None or _same(self.params, params))
        )


class ScriptedPostgres(MemoryPostgres):
    """Statements touch one row and return none, unless `tell` has said otherwise; to fetch rows, it has to."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered: Unanswered | None = None
        """The first statement that fetched what nobody has told."""
        self._told: list[Told] = []

    def tell(self, query: str, answer: ScriptedAnswer, *, params: Params = None, times: int | None = None) -> None:
        """From now on statements that begin with `query` (white space and capitals aside) are answered so.

        The longest `query` counts, then one with `params`, then the newest.
        """
        if not _words(query):
            raise ValueError("an answer needs the statement that it is for, or how that begins")
        self._told.append(Told(_words(query), answer, params, times))

    def check(self, query: str, params: Params) -> None:
        """See MemoryPostgres: what psycopg and the facade of the real one refuse."""
        refuse_transaction_control(query)
        check_params(query, params)

    def check_goes_on(self, session: Session) -> None:
        """See MemoryPostgres."""
        if session.failed:
            raise psycopg.errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )

    def answer(
        self, session: Session, query: str, params: Params, *, fetch: bool
    ) -> tuple[int, list[dict[str, Any]]]:
        """See MemoryPostgres."""
        fitting = [told for told in self._told if told.fits(_words(query), params)]
        if not fitting:
            if fetch:
                raise self._not_told(query)
            return 1, []
        told = max(reversed(fitting), key=lambda told: (len(told.words), told.params is not None))
        if told.left is not None:
            told.left -= 1
        rows = _rows(told.answer, params)
        if isinstance(rows, int):
            if fetch and rows:
                raise self._not_told(query)
            return rows, []
        return len(rows), rows

    def _not_told(self, query: str) -> Unanswered:
        plain = " ".join(query.split())
        shown = plain if len(plain) <= QUERY_SHOWN_MAX else plain[:QUERY_SHOWN_MAX].rpartition(" ")[0]
        error = Unanswered(
            f"in memory nobody knows what {plain!r} returns: tell it by t.answer({shown!r}, [{{…}}]),"
            " or run it on a real PostgreSQL by TestListener(app, postgres=True)"
        )
        self.unanswered = self.unanswered or error
        return error


def _rows(answer: Any, params: Params) -> int | list[dict[str, Any]]:
    """What an answer comes to, for these params; raises it if it is an error."""
    if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
        raise answer
    if callable(answer):
        return _rows(answer(params), params)
    if isinstance(answer, int):
        return int(answer)
    if isinstance(answer, Mapping):
        return [dict(answer)]
    return [dict(row) for row in answer or ()]


def _words(query: str) -> str:
    return " ".join(query.split()).lower().rstrip("; ")


def _same(one: Params, other: Params) -> bool:
    if isinstance(one, Mapping) or isinstance(other, Mapping) or one is None or other is None:
        return one == other
    return list(one) == list(other)


def check_params(query: str, params: Params) -> None:
    """Raise what psycopg does for params that are none, do not fit the placeholders, or cannot be sent."""
    if params is None:
        return
    if isinstance(params, str | bytes) or not hasattr(params, "__getitem__") or not hasattr(params, "__len__"):
        raise TypeError(f"query parameters should be a sequence or a mapping, got {type(params).__name__}")
    found = [match for match in _PLACEHOLDER.finditer(query) if not match[1]]
    if wrong := next((match for match in found if match[3] is not None), None):
        raise psycopg.ProgrammingError(
            f"only '%s', '%b', '%t' are allowed as placeholders, got '{wrong[0]}'; a percent sign is written %%"
        )
    names = {match[2] for match in found if match[2]}
    if isinstance(params, Mapping):
        if missing := sorted(names - params.keys()):
            raise psycopg.ProgrammingError(f"query parameter missing: {', '.join(missing)}")
        values = [params[name] for name in sorted(names)]
    else:
        if names:
            raise TypeError("named placeholders need a mapping of parameters")
        if len(found) != len(params):
            raise psycopg.ProgrammingError(
                f"the query has {len(found)} placeholders but {len(params)} parameters were passed"
            )
        values = list(params)
    for value in values:
        psycopg.adapters.get_dumper(type(value), PyFormat.AUTO)
