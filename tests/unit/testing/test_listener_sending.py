"""What a test sends, and what becomes of it: the way of an event through a TestListener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pydantic
import pytest

from oncecast import App, Call, CallNext, Event, Retry, Transaction
from oncecast.core.errors import OncecastError, StartError
from oncecast.testing import MakeTestListener, NotEnded, TestListener
from oncecast.testing.listener import EventLike


class Line(pydantic.BaseModel):
    n: int


def failing(app: App, *types: str, error: BaseException) -> App:
    """`app` with a handler that raises."""

    @app.on(*types)
    async def fail(event: Event) -> None:
        raise error

    return app


# --- events ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"id": "1", "type": "a", "x": 2}, ("1", "a", "/oncecast", {"id": "1", "type": "a", "x": 2})),
        ({"id": 7}, ("7", "event", "/oncecast", {"id": 7})),
        ({"id": 7, "line": Line(n=1)}, ("7", "event", "/oncecast", {"id": 7, "line": {"n": 1}})),
        (
            {"specversion": "1.0", "id": "1", "type": "a", "source": "/s", "data": [1]},
            ("1", "a", "/s", [1]),
        ),
        (Event.new("a", {"x": 1}, id="1", source="/s", subject="s"), ("1", "a", "/s", {"x": 1})),
        (Event.new("a", b"\x00", id="1"), ("1", "a", "/oncecast", b"\x00")),
    ],
    ids=["bare", "without a type", "with a model", "structured", "event", "binary"],
)
def test_a_mapping_becomes_an_event_as_a_producer_makes_one(
    sent: EventLike, expected: tuple[object, ...], test_listener: MakeTestListener
) -> None:
    event = test_listener(App()).send(sent).event
    assert (event.id, event.type, event.source, event.data) == expected


def test_a_bare_event_without_an_id_gets_one(test_listener: MakeTestListener) -> None:
    t = test_listener(App())
    assert t.send({"id": True}).event.id != t.send({"id": True}).event.id


@pytest.mark.parametrize("sent", [{"id": ""}, {"type": "a\0b"}, Event.new("t", source="x" * 600), {"x": object()}])
def test_what_no_producer_would_accept_is_an_error_of_the_test(
    sent: EventLike, test_listener: MakeTestListener
) -> None:
    t = test_listener(App())
    with pytest.raises(ValueError, match=r"no producer would accept|not an event"):
        t.send_all([{"id": "good"}, sent])
    assert t.send({"id": "good"}).outcome == "stored", "nothing of it was accepted"


def test_sending_no_events_does_nothing(test_listener: MakeTestListener) -> None:
    assert test_listener(App()).send_all([]) == []


# --- outcomes -------------------------------------------------------------------------------------------------


def test_a_result_reads_like_a_sentence(test_listener: MakeTestListener) -> None:
    t = test_listener(failing(App(), "t", error=Retry("not yet", after="30s")))
    assert repr(t.send({"type": "t", "id": "1"})) == (
        "<t 1: dead after 3 attempts; waits 30 s, 30 s; Retry: not yet>"
    )


def test_a_wait_that_a_handler_asks_for_is_bounded_as_in_a_listener(test_listener: MakeTestListener) -> None:
    t = test_listener(failing(App(), "t", error=Retry(after="1h")), event_attempts=2)
    assert t.send({"type": "t"}).waits_s == [300.0]


def test_no_wait_passes_in_real_time(test_listener: MakeTestListener) -> None:
    t = test_listener(failing(App(), "t", error=Retry(after="5m")))
    began_s = time.monotonic()
    assert sum(t.send({"type": "t"}).waits_s) == 600
    assert time.monotonic() - began_s < 60


def test_an_event_that_is_stored_in_the_end_tells_what_failed_before(test_listener: MakeTestListener) -> None:
    app, errors = App(), [ValueError("one"), KeyError("two")]

    @app.on("t")
    async def handler(event: Event) -> None:
        if errors:
            raise errors.pop(0)

    result = test_listener(app).send({"type": "t"}).raise_if_dead()
    assert (result.outcome, result.attempts) == ("stored", 3)
    assert result.failures == ["ValueError: one", "KeyError: 'two'"]
    assert isinstance(result.exception, KeyError)


def test_a_test_that_fails_within_a_handler_fails(test_listener: MakeTestListener) -> None:
    app = App()

    @app.on("t")
    def handler(event: Event) -> None:
        if event.id == "1":
            pytest.fail("by intention")

    t = test_listener(app)
    with pytest.raises(pytest.fail.Exception, match="by intention"):
        t.send({"type": "t", "id": "1"})
    assert t.send({"type": "t", "id": "2"}).is_stored


def test_handlers_are_named_and_middleware_is_around_them(test_listener: MakeTestListener) -> None:
    app, seen = App(), []

    @app.middleware
    async def around(call: Call, call_next: CallNext) -> None:
        seen.append(call.handler.rpartition(".")[2])
        await call_next()

    @app.on("t")
    async def first(event: Event) -> None:
        seen.append("in first")

    @app.on("t")
    def second(event: Event) -> None:
        seen.append("in second")

    result = test_listener(app).send({"type": "t"})
    assert seen == ["first", "in first", "second", "in second"]
    assert [name.rpartition(".")[2] for name in result.handlers] == ["first", "second"]


def test_a_handler_that_takes_too_long_is_ended_by_its_time(test_listener: MakeTestListener) -> None:
    app = App()

    @app.on("t")
    async def handler(event: Event) -> None:
        await asyncio.Event().wait()

    t = test_listener(app, timeout_s=0.01, event_attempts=2)
    assert (t.send({"type": "t"}).failures, t.send({"type": "nobody's"}).outcome) == (
        ["TimeoutError: the handler took longer than HANDLER_TIMEOUT, 0.01 s"] * 2,
        "stored",
    )


def test_what_an_event_died_of_is_raised_as_the_handler_raised_it(test_listener: MakeTestListener) -> None:
    error = ZeroDivisionError("no price")
    result = test_listener(failing(App(), "t", error=error)).send({"type": "t"})
    with pytest.raises(ZeroDivisionError) as raised:
        result.raise_if_dead()
    assert raised.value is error
    assert raised.traceback[-1].name == "fail", "pytest shows the handler's line"
    assert (error.__cause__, error.__context__) == (None, None)


# --- order ----------------------------------------------------------------------------------------------------


def ordered(seen: list[str]) -> App:
    """The event 1 fails twice."""
    app = App()

    @app.on("t", ordered_by="subject")
    async def handler(event: Event, tx: Transaction) -> None:
        seen.append(event.id)
        await tx.execute(f"insert {event.id}")
        if event.id == "1" and seen.count("1") < 3:
            raise ValueError("again")

    return app


def of_key(key: str, *ids: str) -> list[Event]:
    return [Event.new("t", id=id, subject=key) for id in ids]


def test_a_failing_event_holds_back_only_its_key(test_listener: MakeTestListener) -> None:
    seen: list[str] = []
    t = test_listener(ordered(seen))
    results = t.send_all([*of_key("a", "1", "2", "3"), *of_key("b", "x", "y")])
    assert all(result.is_stored for result in results)
    assert (seen[:2], seen[-2:]) == (["1", "x"], ["2", "3"])
    assert [result.is_stored for result in t.send_all(of_key("a", "4", "5"))] == [True, True]


def test_an_event_behind_one_that_does_not_end_does_not_end_either(test_listener: MakeTestListener) -> None:
    seen: list[str] = []
    t = test_listener(ordered(seen))
    t.answer("insert x", psycopg.errors.DeadlockDetected("deadlock"))
    with pytest.raises(NotEnded, match="t x does not end"):
        t.send_all(of_key("a", "x", "y"))
    assert "y" not in seen
    t.answer("insert x", 1)
    assert [result.outcome for result in t.send_all(of_key("a", "x", "y"))] == ["stored", "stored"]


# --- what costs no attempt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.DeadlockDetected("deadlock"),
        psycopg.errors.LockNotAvailable("lock"),
    ],
    ids=["down", "deadlock", "locked"],
)
def test_database_errors_spend_no_attempt_and_lasting_ones_raise(
    error: psycopg.Error, test_listener: MakeTestListener
) -> None:
    app = App()

    @app.on("t")
    async def handler(tx: Transaction) -> None:
        await tx.execute("insert into t values (1)")

    t = test_listener(app)
    t.answer("insert", error, times=3)
    result = t.send({"type": "t"})
    assert (result.outcome, result.attempts, result.waits_s) == ("stored", 1, [])
    t.answer("insert", error)
    with pytest.raises(NotEnded, match=f"spends no attempt, while this error persists: PostgreSQL: {error}"):
        t.send({"type": "t", "id": "1"})
    t.answer("insert", 1)
    assert t.send({"type": "t", "id": "1"}).is_stored, "it was never ended"


# --- follow-ups -----------------------------------------------------------------------------------------------


def chain() -> App:
    """An order is reserved and invoiced; the invoice dies."""
    app = App()

    @app.on("ordered")
    async def reserve(event: Event) -> None:
        event.emit(Event.new("reserved", event.data))
        event.emit(Event.new("invoiced", event.data))

    @app.on("reserved")
    def ship(event: Event) -> None:
        event.emit(Event.new("shipped", event.data))

    return failing(app, "invoiced", error=ZeroDivisionError("no price"))


def test_follow_ups_are_not_run_unless_requested(test_listener: MakeTestListener) -> None:
    t = test_listener(chain())
    result = t.send({"type": "ordered"}).raise_if_dead()
    assert ([event.type for event in result.emitted], result.followed) == (["reserved", "invoiced"], [])


def test_each_follow_up_has_a_result_and_a_dead_one_is_raised(test_listener: MakeTestListener) -> None:
    t = test_listener(chain())
    result = t.send({"type": "ordered"}, follow=True)
    reserved, invoiced = result.followed
    assert [(r.event.type, r.outcome) for r in (reserved, *reserved.followed, invoiced)] == [
        ("reserved", "stored"),
        ("shipped", "stored"),
        ("invoiced", "dead"),
    ]
    assert [event.type for event in t.emitted] == ["reserved", "invoiced", "shipped"]
    with pytest.raises(ZeroDivisionError):
        result.raise_if_dead()


def test_of_a_batch_each_event_has_its_own_follow_ups(test_listener: MakeTestListener) -> None:
    app = App()

    @app.on_batch("t")
    async def batch(events: list[Event]) -> None:
        for event in events:
            for _ in range(event.data):
                event.emit(Event.new("u", event.id))

    results = test_listener(app).send_all([Event.new("t", n, id=str(n)) for n in range(4)])
    assert [[event.data for event in result.emitted] for result in results] == [[], ["1"], ["2"] * 2, ["3"] * 3]


def test_handlers_that_emit_for_each_other_without_end_are_noticed(test_listener: MakeTestListener) -> None:
    app = App()

    @app.on("t")
    async def handler(event: Event) -> None:
        event.emit(Event.new("t"))

    with pytest.raises(OncecastError, match="emit for each other"):
        test_listener(app).send({"type": "t"}, follow=True)


# --- the application's life -----------------------------------------------------------------------------------


class Mail:
    """A state."""

    def __init__(self) -> None:
        self.sent: list[str] = []


def mailing(ended: list[Mail]) -> App:
    async def lifespan() -> AsyncIterator[Mail]:
        mail = Mail()
        yield mail
        ended.append(mail)

    app = App(lifespan=lifespan)

    @app.on("t")
    async def handler(mail: Mail, event: Event) -> None:
        mail.sent.append(event.id)

    return app


async def test_the_lifespan_runs_within() -> None:
    ended: list[Mail] = []
    async with TestListener(mailing(ended)) as t:
        await t.send({"type": "t", "id": "1"})
        assert ended == []
    assert [mail.sent for mail in ended] == [["1"]]


async def test_a_given_state_replaces_the_lifespan() -> None:
    ended: list[Mail] = []
    mine = Mail()
    async with TestListener(mailing(ended), state=mine) as t:
        await t.send({"type": "t", "id": "1"})
    assert (mine.sent, ended) == (["1"], [])


async def test_a_lifespan_that_cannot_start_is_reported() -> None:
    async def connect() -> None:
        raise ConnectionRefusedError("no mail server")

    async def lifespan() -> AsyncIterator[None]:
        await connect()
        yield

    with pytest.raises(StartError, match="no mail server"):
        async with TestListener(App(lifespan=lifespan)):
            pass


async def test_events_that_are_sent_at_the_same_time_go_one_after_the_other() -> None:
    app, running, most = App(), 0, 0

    @app.on("t")
    async def handler(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with TestListener(app) as t:
        results = await asyncio.gather(*(t.send(Event.new("t", id=str(n))) for n in range(5)))
    assert ([r.event.id for r in results], most) == (["0", "1", "2", "3", "4"], 1)


async def test_nothing_can_be_sent_outside_of_it() -> None:
    t = TestListener(App())
    with pytest.raises(OncecastError, match="async with TestListener"):
        await t.send({})
    async with t:
        await t.send({})
    with pytest.raises(OncecastError, match="async with TestListener"):
        await t.send({})
