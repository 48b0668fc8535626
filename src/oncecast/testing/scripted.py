"""A PostgreSQL that knows no SQL: it writes down what handlers ask, and answers what a test has told it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from oncecast.core.transaction import Params
from oncecast.stores.memory.postgres import MemoryPostgres, Session

Rows = Iterable[Mapping[str, Any]]
Answer = int | Rows | BaseException | Callable[[Params], Any]


class Statement(NamedTuple):
    """What a handler ran, white space aside."""

    query: str
    params: Params = None


class Unanswered(AssertionError):
    """A handler fetched rows, and the test has not said which."""


class ScriptedPostgres(MemoryPostgres):
    """Statements touch one row and return none, unless `tell` has said otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[Statement] = []
        self._answers: dict[str, Answer] = {}
        self._aborted: set[Session] = set()

    def tell(self, query: str, answer: Answer) -> None:
        """From now on statements that begin with `query` (white space aside) are answered so."""
        self._answers[_plain(query)] = answer

    def answer(self, session: Session, query: str, params: Params) -> tuple[int, list[dict[str, Any]]]:
        """See MemoryPostgres. After an error the transaction takes nothing more, as PostgreSQL's does."""
        if session.failed:
            raise RuntimeError("current transaction is aborted, commands ignored until end of transaction block")
        plain = _plain(query)
        self.statements.append(Statement(plain, params))
        told = [text for text in self._answers if plain.startswith(text)]
        if not told:
            if plain.lower().startswith(("select", "with", "values")) or " returning " in plain.lower():
                raise Unanswered(f"no rows are told for {plain!r}: t.answer({plain[:40]!r}, [{{…}}]) tells them")
            return 1, []
        answer = self._answers[max(told, key=len)]
        if callable(answer) and not isinstance(answer, BaseException):
            answer = answer(params)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, int):
            return answer, []
        rows = [dict(row) for row in answer or ()]
        return len(rows), rows


def _plain(query: str) -> str:
    return " ".join(query.split())
