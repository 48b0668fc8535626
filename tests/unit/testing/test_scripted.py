"""In memory, a test scripts what statements return and raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from oncecast import App, Event, Transaction
from oncecast.core.errors import OncecastError
from oncecast.testing import MakeTestListener, Statement, SyncTestListener, Unanswered

STOCK = "select free from stock where sku = %s"


@pytest.fixture
def t(test_listener: MakeTestListener) -> SyncTestListener:
    """Its handler runs the event's statement, and emits what it returns."""
    app = App()

    @app.on("fetch")
    async def fetch(data: dict[str, Any], event: Event, tx: Transaction) -> None:
        event.emit(Event.new("fetched", await tx.fetch_all(data["query"], data.get("params"))))

    @app.on("fetch one")
    async def fetch_one(data: dict[str, Any], event: Event, tx: Transaction) -> None:
        event.emit(Event.new("fetched", await tx.fetch_one(data["query"], data.get("params"))))

    @app.on("execute")
    async def execute(data: dict[str, Any], event: Event, tx: Transaction) -> None:
        event.emit(Event.new("touched", await tx.execute(data["query"], data.get("params"))))

    return test_listener(app)


def answer_of(t: SyncTestListener, type: str, query: str, params: Any = None) -> Any:
    """What the handler got."""
    (event,) = t.send(Event.new(type, {"query": query, "params": params})).raise_if_dead().emitted
    return event.data


def test_statements_are_written_down_with_their_parameters_and_white_space_made_one(t: SyncTestListener) -> None:
    result = t.send(Event.new("execute", {"query": "update stock\n  set free = %s", "params": [1]}))
    assert result.statements == t.statements == [Statement("update stock set free = %s", (1,))]


def test_rows_are_scripted_as_a_list_or_as_one(t: SyncTestListener) -> None:
    t.answer("select free from stock", [{"free": 3}, {"free": 4}])
    t.answer("select sku from stock", {"sku": "A"})
    t.answer("select none", None)
    assert answer_of(t, "fetch", STOCK, ["A"]) == [{"free": 3}, {"free": 4}]
    assert answer_of(t, "fetch one", STOCK, ["A"]) == {"free": 3}
    assert answer_of(t, "fetch", "select sku from stock") == [{"sku": "A"}]
    assert answer_of(t, "fetch one", "select none") is None


def test_white_space_and_capitals_do_not_count_and_words_are_whole(t: SyncTestListener) -> None:
    t.answer("SELECT  free\nFROM stock;", {"free": 3})
    assert answer_of(t, "fetch one", "select free from\n\tStock where sku = %s", ["A"]) == {"free": 3}
    with pytest.raises(Unanswered):
        answer_of(t, "fetch one", "select free from stock_of_yesterday")


def test_a_statement_affects_one_row_unless_scripted(t: SyncTestListener) -> None:
    assert answer_of(t, "execute", "update stock set free = 0") == 1
    t.answer("update stock", 0)
    assert answer_of(t, "execute", "update stock set free = 0") == 0
    t.answer("delete from stock returning", [{"sku": "A"}, {"sku": "B"}])
    assert answer_of(t, "execute", "delete from stock returning sku") == 2


def test_an_answer_may_be_for_certain_parameters_or_a_function_of_them(t: SyncTestListener) -> None:
    t.answer(STOCK, {"free": 0}, params=("B",))
    t.answer(STOCK, lambda params: {"free": len(next(iter(params or ())))})
    assert [answer_of(t, "fetch one", STOCK, [sku])["free"] for sku in ("AAA", "B", "CC")] == [3, 0, 2]
    t.answer("select x", {"x": 1}, params={"y": 1})
    assert answer_of(t, "fetch one", "select x where y = %(y)s", {"y": 1}) == {"x": 1}


def test_of_several_answers_the_longest_counts_and_then_the_newest(t: SyncTestListener) -> None:
    t.answer(STOCK, {"free": 1})
    t.answer("select free", {"free": 2})
    assert answer_of(t, "fetch one", STOCK, ["A"]) == {"free": 1}
    t.answer(STOCK, {"free": 3})
    assert answer_of(t, "fetch one", STOCK, ["A"]) == {"free": 3}


def test_an_answer_may_be_limited_to_a_number_of_calls(t: SyncTestListener) -> None:
    t.answer(STOCK, {"free": 0})
    t.answer(STOCK, {"free": 5}, times=2)
    assert [answer_of(t, "fetch one", STOCK, ["A"])["free"] for _ in range(3)] == [5, 5, 0]


@pytest.mark.parametrize(
    "error", [psycopg.errors.UniqueViolation("there already"), psycopg.errors.UniqueViolation], ids=["one", "class"]
)
def test_a_statement_that_raises_once_is_an_attempt(t: SyncTestListener, error: Any) -> None:
    t.answer("insert into stock", error, times=1)
    result = t.send(Event.new("execute", {"query": "insert into stock values (1)"}))
    assert (result.outcome, result.attempts, result.waits_s) == ("stored", 2, [2.0])
    assert isinstance(result.exception, psycopg.errors.UniqueViolation)


def test_an_error_of_a_statement_rolls_back_those_before_it(t: SyncTestListener) -> None:
    t.answer("insert", psycopg.errors.UniqueViolation("there already"))
    result = t.send(Event.new("execute", {"query": "insert into stock values (1)"}))
    assert (result.outcome, result.emitted, result.error) == ("dead", [], "UniqueViolation: there already")


def test_a_fetch_without_an_answer_says_how_to_script_one(t: SyncTestListener) -> None:
    with pytest.raises(Unanswered, match=r"t\.answer\('select free from stock where sku = %s', \[\{…\}\]\)"):
        t.send(Event.new("fetch", {"query": "select free\nfrom stock where sku = %s", "params": ["A"]}))
    t.answer("update stock", 1)
    with pytest.raises(Unanswered, match="postgres=True"):
        t.send(Event.new("fetch", {"query": "update stock set free = 0 returning sku"}))
    t.answer("update stock", {"sku": "A"})
    assert answer_of(t, "fetch one", "update stock set free = 0 returning sku") == {"sku": "A"}


def test_a_handler_cannot_hide_a_fetch_without_an_answer(test_listener: MakeTestListener) -> None:
    app = App()

    @app.on("t")
    async def handler(tx: Transaction) -> None:
        try:
            await tx.fetch_one("select 1")
        except BaseException:
            return

    with pytest.raises(Unanswered):
        test_listener(app).send(Event.new("t"))


@pytest.mark.parametrize(
    ("query", "params", "error"),
    [
        ("select %s", "A", "should be a sequence or a mapping, got str"),
        ("select %s, %s", [1], "2 placeholders but 1 parameters"),
        ("select %(a)s", {"b": 1}, "parameter missing: a"),
        ("select %(a)s", [1], "named placeholders need a mapping"),
        ("select 1 where x like 'a%' and y = %s", [1], "only '%s', '%b', '%t' are allowed as placeholders"),
        ("select %s", [{}], "cannot adapt type 'dict'"),
        ("set search_path = x", None, "may not run SET"),
        ("rollback", None, "may not run ROLLBACK"),
    ],
)
def test_what_psycopg_or_the_transaction_would_refuse_is_refused_before_it_is_answered(
    t: SyncTestListener, query: str, params: Any, error: str
) -> None:
    t.answer("select", {"x": 1})
    assert error in str(t.send(Event.new("fetch", {"query": query, "params": params})).error)


def test_percent_signs_that_are_doubled_or_without_parameters_are_no_placeholders(t: SyncTestListener) -> None:
    t.answer("select", {"x": 1})
    assert answer_of(t, "fetch one", "select 5 %% %s", [2]) == {"x": 1}
    assert answer_of(t, "fetch one", "select 5 % 2") == {"x": 1}


def test_an_answer_needs_a_statement(t: SyncTestListener) -> None:
    with pytest.raises(ValueError, match="needs a statement"):
        t.answer(" ; ", 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.execute("create table x ()"),
        lambda t: t.fetch_one("select 1"),
        lambda t: t.fetch_all("select 1"),
        lambda t: t.database_url,
    ],
)
def test_sql_of_the_tests_own_needs_a_real_postgresql(
    t: SyncTestListener, call: Callable[[SyncTestListener], Any]
) -> None:
    with pytest.raises(OncecastError, match="postgres=True"):
        call(t)
