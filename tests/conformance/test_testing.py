"""A TestListener gives the same results in memory as on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from oncecast import App, Event, Reject, Retry, SyncTransaction, Transaction
from oncecast.testing import Result, SyncTestListener

STEPS = (
    "write",
    "emit",
    "emit in a savepoint that fails",
    "fail in a savepoint",
    "swallow in a savepoint",
    "swallow",
    "break",
    "divide",
    "commit",
    "reject",
    "retry",
    "cancel",
    "raise once",
)
"""What a handler does, one after the other; most go well."""

INSERT = "insert into effects values (%s)"
BROKEN = "select 1 / 0 as x"
DOUBLE = "insert into effects values ('first')"


class Application:
    """Its handlers do what the event's data says: a list of STEPS."""

    def __init__(self) -> None:
        self.app = App()
        self._raised: set[str] = set()
        self.app.on("alone")(self._async_handler("alone"))
        self.app.on("thread")(self._sync_handler())
        self.app.on("ordered", ordered_by="subject")(self._async_handler("ordered"))
        self.app.on("shared", share_transaction=True)(self._async_handler("shared"))

        @self.app.on_batch("batch", max_events=3)
        async def batch(events: list[Event], tx: Transaction) -> None:
            for event in events:
                await self._act(event, tx)

    def _async_handler(self, name: str) -> Any:
        async def handler(event: Event, tx: Transaction) -> None:
            await self._act(event, tx)

        handler.__qualname__ = name
        return handler

    def _sync_handler(self) -> Any:
        def thread(event: Event, tx: SyncTransaction) -> None:
            for step in event.data:
                match step:
                    case "fail in a savepoint" | "emit in a savepoint that fails":
                        with suppress(psycopg.Error), tx.savepoint():
                            event.emit(Event.new("lost"))
                            tx.fetch_one(BROKEN)
                    case "swallow":
                        with suppress(psycopg.Error):
                            tx.execute(DOUBLE)
                    case "divide" | "break" | "swallow in a savepoint":
                        tx.fetch_one(BROKEN)
                    case "commit":
                        tx.execute("commit")
                    case _:
                        self._raise(step, event)
                        tx.execute(INSERT, (event.id,))

        return thread

    async def _act(self, event: Event, tx: Transaction) -> None:
        for step in event.data:
            match step:
                case "write":
                    assert await tx.execute(INSERT, (event.id,)) == 1
                case "emit":
                    event.emit(Event.new("emitted", event.id))
                case "emit in a savepoint that fails":
                    with suppress(KeyError):
                        async with tx.savepoint():
                            event.emit(Event.new("lost"))
                            raise KeyError
                case "fail in a savepoint":
                    with suppress(psycopg.Error):
                        async with tx.savepoint():
                            await tx.fetch_one(BROKEN)
                case "swallow in a savepoint":
                    async with tx.savepoint():
                        with suppress(psycopg.Error):
                            await tx.fetch_one(BROKEN)
                case "swallow":
                    with suppress(psycopg.Error):
                        await tx.execute(DOUBLE)
                case "break":
                    await tx.execute(DOUBLE)
                case "divide":
                    await tx.fetch_one(BROKEN)
                case "commit":
                    await tx.execute("commit")
                case "cancel":
                    future = asyncio.get_running_loop().create_future()
                    future.cancel()
                    await future
                case _:
                    self._raise(step, event)

    def _raise(self, step: str, event: Event) -> None:
        if step == "reject":
            raise Reject("rejected")
        if step == "retry":
            raise Retry("later", after="7s")
        if step == "raise once" and event.id not in self._raised:
            self._raised.add(event.id)
            raise ValueError("once")


def in_memory() -> SyncTestListener:
    t = SyncTestListener(Application().app)
    t.answer(BROKEN, psycopg.errors.DivisionByZero("division by zero"))
    t.answer(DOUBLE, psycopg.errors.UniqueViolation("duplicate key"))
    return t


def reported(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """Everything that can be the same."""
    return [
        (
            result.event.id,
            result.outcome,
            result.attempts,
            result.waits_s,
            [failure.partition(":")[0] for failure in result.failures],
            [(event.id, event.type, event.data) for event in result.emitted],
            result.statements,
        )
        for result in results
    ]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("alone", "thread", "ordered", "shared", "batch", "nobody's")),
        st.sampled_from("abcdef"),
        st.lists(st.sampled_from(STEPS + ("write", "emit") * 4), max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@given(sendings=st.lists(EVENTS, min_size=1, max_size=3))
@example(sendings=[[("alone", "a", ["emit", "swallow"])]])
@example(sendings=[[(type, id, []) for type in ("ordered", "batch", "shared") for id in "aab"]] * 2)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.timeout(600)
def test_the_same_application_gives_the_same_results_in_memory_as_on_postgresql(
    postgres_url: str, sendings: list[list[tuple[str, str, list[str]]]]
) -> None:
    with in_memory() as memory, SyncTestListener(Application().app, postgres=postgres_url) as real:
        real.execute("create table effects (id text); create unique index on effects (id) where id = 'first'")
        real.execute(DOUBLE)
        for sending in sendings:
            events = [Event.new(type, steps, id=id, subject=id) for type, id, steps in sending]
            expected = real.send_all(events)
            assert reported(memory.send_all(events)) == reported(expected)
        assert memory.emitted == real.emitted
        assert memory.statements == real.statements
        rows = real.fetch_all("select id, count(*) as n from effects where id <> 'first' group by 1")
        stored = real.fetch_all("select id from oncecast.events where status = 'stored'")
        assert {row["id"] for row in rows} <= {row["id"] for row in stored}, "effects of what was stored only"
