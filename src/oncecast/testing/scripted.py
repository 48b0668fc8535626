"""A PostgreSQL without SQL: it gives the answers that a test has scripted, and fails as the real one does."""

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
class AnswerRule:
    """An answer to statements that begin with `words`; to all of them, or only to those with `params`."""

    words: str
    answer: ScriptedAnswer
    params: Params
    left: int | None
    """The remaining number of uses; None: unlimited."""

    def fits(self, words: str, params: Params) -> bool:
        """Whether this answers the statement."""
        return (
            self.left != 0
            and words.startswith(self.words)
            and not re.match(r"\w", words[len(self.words) :] if self.words[-1:].isalnum() else "")
            and (self.params is None or _same(self.params, params))
        )


class ScriptedPostgres(MemoryPostgres):
    """Statements affect one row and return none, unless `add_answer` gave an answer; fetching rows requires one."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered: Unanswered | None = None
        """The error of the first fetch without an answer."""
        self._answers: list[AnswerRule] = []

    def add_answer(
        self, query: str, answer: ScriptedAnswer, *, params: Params = None, times: int | None = None
    ) -> None:
        """Answer statements that begin with `query`, ignoring white space and case.

        The longest `query` applies; among equal ones, one with `params`, then the newest.
        """
        if not _words(query):
            raise ValueError("an answer needs a statement, or the beginning of one")
        self._answers.append(AnswerRule(_words(query), answer, params, times))

    def check(self, query: str, params: Params) -> None:
        """Raise what psycopg and Oncecast's transaction raise before a statement is sent."""
        refuse_transaction_control(query)
        check_params(query, params)

    def check_goes_on(self, session: Session) -> None:
        """Raise if the transaction is aborted."""
        if session.failed:
            raise psycopg.errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )

    def answer(
        self, session: Session, query: str, params: Params, *, fetch: bool
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return the scripted answer to a statement; raise Unanswered for a fetch without one."""
        fitting = [rule for rule in self._answers if rule.fits(_words(query), params)]
        if not fitting:
            if fetch:
                raise self._unanswered_error(query)
            return 1, []
        rule = max(reversed(fitting), key=lambda rule: (len(rule.words), rule.params is not None))
        if rule.left is not None:
            rule.left -= 1
        rows = _rows(rule.answer, params)
        if isinstance(rows, int):
            if fetch and rows:
                raise self._unanswered_error(query)
            return rows, []
        return len(rows), rows

    def _unanswered_error(self, query: str) -> Unanswered:
        plain = " ".join(query.split())
        shown = plain if len(plain) <= QUERY_SHOWN_MAX else plain[:QUERY_SHOWN_MAX].rpartition(" ")[0]
        error = Unanswered(
            f"no answer for {plain!r}: add one with t.answer({shown!r}, [{{…}}]),"
            " or use a real PostgreSQL: TestListener(app, postgres=True)"
        )
        self.unanswered = self.unanswered or error
        return error


def _rows(answer: Any, params: Params) -> int | list[dict[str, Any]]:
    """Return the result of an answer for these parameters; raise it if it is an error."""
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
    """Raise what psycopg raises for parameters that do not fit the placeholders or cannot be sent."""
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
