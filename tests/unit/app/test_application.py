"""Applications: handlers are called in order, with their parameters, and can emit events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pytest

from oncecast import App, Call, CallNext, Event, Retry, SyncTransaction, Transaction
from oncecast.app.isolation import RunOptions
from oncecast.app.lifespan import Bounds
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import (
    AttemptFailed,
    ConfigError,
    Cost,
    DataInvalid,
    NoThread,
    StartError,
    classify,
)
from oncecast.core.event import Arrival, follow_up_id
from oncecast.core.telemetry import LifespanCutShort, TelemetryEvent
from oncecast.stores.postgres.connection import AnswerTimes
from tests.support.arrivals import arrivals

OPTIONS = RunOptions(clock=SYSTEM_CLOCK, timeout_s=10.0)


class Written:
    """A transaction that records its statements."""

    def __init__(self) -> None:
        self.emitted: list[bytes] = []
        self.statements: list[str] = []
        self.savepoints: list[str] = []

    async def execute(self, query: str, params: Any = None) -> int:
        await asyncio.sleep(0)
        self.statements.append(query)
        return 1

    async def fetch_one(self, query: str, params: Any = None) -> dict[str, Any]:
        return {"query": query}

    async def fetch_all(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        return [{"query": query}]

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            self.savepoints.append("rolled back")
            raise
        self.savepoints.append("released")


def arriving(*events: Event) -> list[Arrival]:
    found = arrivals(len(events))
    for arrival, event in zip(found, events, strict=True):
        arrival.raw, arrival.type, arrival.id, arrival.source = (
            msgspec.Raw(event.to_json()),
            event.type,
            event.id,
            event.source,
        )
    return found


async def handled(app: App, *events: Event, timeout_s: float = 10.0, **options: Any) -> Written:
    tx = Written()
    run = RunOptions(clock=SYSTEM_CLOCK, timeout_s=timeout_s, **options)
    await app.handle(arriving(*events), tx, run)  # type: ignore[arg-type]
    return tx


@pytest.mark.parametrize("member", [b'"subject":"\\ud800"', b'"data_base64":"YQ="', b'"ext":{"a":' + b"[" * 9_999])
async def test_an_event_whose_json_cannot_be_read_is_dead_at_once_and_its_handler_is_not_called(
    member: bytes,
) -> None:
    app, called = App("shop"), []

    @app.on("tick")
    async def handle(event: Event) -> None:
        called.append(event)

    (arrival,) = arrivals(1)
    arrival.raw = msgspec.Raw(b'{"specversion":"1.0","id":"a","source":"/s","type":"tick",' + member + b"}")
    with pytest.raises(DataInvalid, match="cannot be read") as raised:
        await app.handle([arrival], Written(), OPTIONS)  # type: ignore[arg-type]
    assert (classify(raised.value), called) == (Cost.DEAD, [])


@pytest.mark.parametrize("types", [(), ("",), (print,), ("a*b",)])
def test_a_handler_needs_types(types: Any) -> None:
    with pytest.raises(ConfigError, match="event type"):
        App("shop").on(*types)


@pytest.mark.parametrize("source", ["", 0, b"/shop", "a*b"])
def test_an_invalid_source_is_refused(source: Any) -> None:
    with pytest.raises(ConfigError, match="source"):
        App("shop").on("t", source=source)


async def test_handlers_of_a_type_run_in_the_order_of_their_definition_with_the_decoded_event() -> None:
    app, seen = App("shop"), []

    @app.on("a", "b")
    async def first(event: Event, tx: Transaction) -> None:
        seen.append(("first", event.data))

    @app.on("a")
    async def second(event: Event, tx: Transaction) -> None:
        seen.append(("second", event.data))

    await handled(app, Event.new("a", {"n": 1}))
    assert seen == [("first", {"n": 1}), ("second", {"n": 1})]
    assert (app.concerns("a"), app.concerns("b"), app.concerns("c")) == (True, True, False)


async def test_events_that_share_a_transaction_run_one_after_the_other_through_all_their_handlers() -> None:
    app, seen = App(), []

    @app.on("t", share_transaction=True)
    async def first(event: Event) -> None:
        seen.append(("first", event.data))

    @app.on("t", share_transaction=True)
    async def second(event: Event) -> None:
        seen.append(("second", event.data))

    await handled(app, Event.new("t", 1), Event.new("t", 2))
    assert seen == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


async def test_a_batch_handler_gets_all_events_in_one_call_also_with_handlers_of_single_ones() -> None:
    app, seen = App(), []

    @app.on_batch("t")
    async def together(numbers: list[int]) -> None:
        seen.append(numbers)

    @app.on("t", share_transaction=True)
    async def single(number: int) -> None:
        seen.append([number])

    await handled(app, Event.new("t", 1), Event.new("t", 2))
    assert seen == [[1, 2], [1], [2]]


async def test_a_plain_def_runs_in_a_thread_and_its_transaction_runs_calls_on_the_loop() -> None:
    app, threads = App(), []

    @app.on("t")
    def handler(event: Event, tx: SyncTransaction) -> None:
        threads.append(threading.current_thread())
        assert tx.execute("one") == 1
        with tx.savepoint():
            tx.execute("two")
        with pytest.raises(ValueError, match="mine"), tx.savepoint():
            raise ValueError("mine")
        assert tx.fetch_one("three") == {"query": "three"}
        assert tx.fetch_all("four") == [{"query": "four"}]
        event.emit(Event.new("done"))

    tx = await handled(app, Event.new("t"))
    assert tx.statements == ["one", "two"]
    assert tx.savepoints == ["released", "rolled back"]
    assert len(tx.emitted) == 1
    assert threads != [threading.main_thread()]


class Counting:
    """A callable object."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, event: Event, tx: Transaction) -> None:
        self.seen.append(event.data)
        event.emit(Event.new("counted"))


class CountingInAThread(Counting):
    def __call__(self, event: Event, tx: SyncTransaction) -> None:  # type: ignore[override]
        tx.execute("count")
        self.seen.append(event.data)
        event.emit(Event.new("counted"))


@pytest.mark.parametrize("kind", [Counting, CountingInAThread])
async def test_a_callable_object_is_a_handler_named_by_its_class(kind: type[Counting]) -> None:
    app, counting = App(), kind()
    app.on("t")(counting)
    tx = await handled(app, Event.new("t", 1, id="1", source="/s"))
    assert counting.seen == [1]
    assert Event.from_json(tx.emitted[0]).id == follow_up_id("/s", "1", app.name, kind.__qualname__, 0)


async def of_shop(shop: str, event: Event, tx: Transaction, *, seen: list[Any], limit: int) -> None:
    seen.append((shop, event.data, limit))


def of_shop_in_a_thread(shop: str, event: Event, tx: SyncTransaction, *, seen: list[Any], limit: int) -> None:
    seen.append((shop, event.data, limit))


@pytest.mark.parametrize("function", [of_shop, of_shop_in_a_thread])
async def test_a_partial_is_a_handler_that_gets_the_other_arguments_and_is_named_by_its_function(
    function: Any,
) -> None:
    app, seen = App(), list[tuple[str, int, int]]()
    app.on("t")(partial(partial(function, "north", seen=seen), limit=3))
    app.on("t")(partial(function, "south", seen=seen, limit=4))
    await handled(app, Event.new("t", 1))
    assert seen == [("north", 1, 3), ("south", 1, 4)]
    name = function.__name__
    assert [handler.name for handler in app.plan_of("t", "/s").handlers] == [name, f"{name}#2"]


@pytest.mark.parametrize("wrong", [3, "handler", Counting, None])
def test_an_object_that_cannot_be_called_with_an_event_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="must be a function"):
        App().on("t")(wrong)


async def test_the_error_of_a_plain_def_is_raised() -> None:
    app = App()

    @app.on("t")
    def handler() -> None:
        raise Retry(after="30s")

    with pytest.raises(Retry):
        await handled(app, Event.new("t"))


@pytest.mark.parametrize("stop", [StopIteration("x"), StopAsyncIteration("x")])
async def test_a_plain_def_that_raises_stop_iteration_fails_too(stop: Exception) -> None:
    app = App()

    @app.on("t")
    def handler() -> None:
        raise stop

    with pytest.raises((RuntimeError, StopAsyncIteration)):
        await handled(app, Event.new("t"))


async def test_a_plain_def_that_returns_a_coroutine_fails() -> None:
    app = App()

    async def inner() -> None: ...

    @app.on("t")
    def handler() -> Any:
        return inner()

    with pytest.raises(TypeError, match="returns a coroutine"):
        await handled(app, Event.new("t"))


async def test_a_handler_that_times_out_is_cancelled_and_one_in_a_thread_is_abandoned() -> None:
    app, may_end, has_ended = App(), threading.Event(), threading.Event()

    @app.on("t")
    def handler() -> None:
        may_end.wait()
        has_ended.set()

    with pytest.raises(TimeoutError, match="longer than HANDLER_TIMEOUT"):
        await handled(app, Event.new("t"), timeout_s=0.01)
    assert not has_ended.is_set()
    may_end.set()
    assert await asyncio.to_thread(has_ended.wait, 10)


OUT_OF_TIME = "the handler took longer than HANDLER_TIMEOUT, 0.01 s"


@pytest.mark.parametrize("batched", [False, True])
async def test_a_handler_time_out_differs_from_a_time_out_inside_the_handler(batched: bool) -> None:
    app = App()

    async def long() -> None:
        await asyncio.Event().wait()

    async def own() -> None:
        async with asyncio.timeout(0):
            await long()

    async def own_late() -> None:
        try:
            await long()
        except asyncio.CancelledError:
            raise TimeoutError("its own") from None

    runs = {"long": long, "own": own, "own late": own_late}
    if batched:

        @app.on_batch("*")
        async def batch(events: list[Event]) -> None:
            await runs[events[0].type]()
    else:

        @app.on("*")
        async def handler(event: Event) -> None:
            await runs[event.type]()

    for type_, reported in (("long", OUT_OF_TIME), ("own", ""), ("own late", OUT_OF_TIME)):
        with pytest.raises(TimeoutError) as raised:
            await handled(app, Event.new(type_), timeout_s=0.01 if type_ != "own" else 10.0)
        assert (type(raised.value).__name__, str(raised.value)) == ("TimeoutError", reported)
        assert classify(raised.value) is Cost.RETRY


@pytest.mark.parametrize("swallowed", [asyncio.CancelledError, BaseException])
async def test_a_handler_that_swallows_its_time_out_fails_too(swallowed: type[BaseException]) -> None:
    app = App()

    @app.on("t")
    async def handler() -> None:
        with suppress(swallowed):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as raised:
        await handled(app, Event.new("t"), timeout_s=0.01)
    assert str(raised.value) == OUT_OF_TIME


async def test_a_handler_that_swallows_its_cancellation_leaves_no_task() -> None:
    app, runs = App(), asyncio.Event()

    @app.on("t")
    async def handler() -> None:
        runs.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    attempt = asyncio.create_task(handled(app, Event.new("t")))
    await runs.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert attempt.cancelled()


async def outcome_of(attempt: Awaitable[object]) -> Exception | None:
    try:
        await attempt
    except Exception as error:
        return error
    return None


async def test_a_handler_that_times_out_has_time_to_clean_up() -> None:
    """Also to cancel its statement: a second cancellation meanwhile would break its connection."""
    assert OPTIONS.cancel_again_s > 2 * AnswerTimes().cancel_s
    app, seen, cleaning, over = App(), [], asyncio.Event(), asyncio.Event()

    @app.on("t")
    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await over.wait()
            seen.append("clean")

    async with asyncio.TaskGroup() as group:
        attempt = group.create_task(outcome_of(handled(app, Event.new("t"), timeout_s=0.01)))
        await cleaning.wait()
        over.set()
    assert isinstance(attempt.result(), TimeoutError)
    assert seen == ["clean"]


async def test_a_handler_that_swallows_its_cancellation_is_cancelled_again() -> None:
    app, seen = App(), list[str]()

    @app.on("t")
    async def handler() -> None:
        while len(seen) < 3:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            seen.append("cancelled")

    with pytest.raises(TimeoutError, match="HANDLER_TIMEOUT"):
        await handled(app, Event.new("t"), timeout_s=0.01, cancel_again_s=0.01)
    assert len(seen) == 3


def blocking_app(took_s: float, waited_s: float = 0.0) -> App:
    """Its handler blocks the event loop for `took_s`; another one only waits."""
    app = App()

    @app.on("blocks")
    async def be_in_the_way(event: Event) -> None:
        await asyncio.sleep(0)
        time.sleep(took_s)

    @app.on("waits")
    async def wait(event: Event) -> None:
        await asyncio.sleep(waited_s)
        await asyncio.sleep(0)

    return app


async def test_a_handler_that_blocks_the_loop_beyond_its_time_out_fails_although_it_returns() -> None:
    with pytest.raises(TimeoutError, match="HANDLER_TIMEOUT"):
        await handled(blocking_app(took_s=0.3), Event.new("blocks"), timeout_s=0.1)


async def test_time_for_which_another_handler_blocked_the_loop_does_not_count() -> None:
    app = blocking_app(took_s=1.0, waited_s=0.3)
    async with asyncio.TaskGroup() as group:
        waits = group.create_task(handled(app, Event.new("waits"), timeout_s=0.4))
        await asyncio.sleep(0)
        blocks = group.create_task(handled(app, Event.new("blocks"), timeout_s=10.0))
    assert (waits.done(), blocks.done()) == (True, True)


async def test_a_handler_that_never_ends_when_cancelled_is_abandoned() -> None:
    app, may_end, running = App(), asyncio.Event(), list[asyncio.Task[Any]]()

    @app.on("t")
    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append(task)
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    with pytest.raises(TimeoutError, match="HANDLER_TIMEOUT"):
        await handled(app, Event.new("t"), timeout_s=0.01, cancel_again_s=0.01)
    assert not running[0].done()
    may_end.set()
    await asyncio.wait(running)


class Unusual(BaseException):
    """An error of a library that `except Exception` does not catch, such as gevent's Timeout."""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unusual("odd")], ids=repr)
@pytest.mark.parametrize("kind", ["async def", "def", "in a child task"])
async def test_a_base_exception_is_a_failed_attempt_too(error: BaseException, kind: str) -> None:
    if kind == "in a child task" and isinstance(error, SystemExit | KeyboardInterrupt):
        pytest.skip("asyncio stops the loop for these: tests/acceptance/test_exits.py has them")
    app = App()

    async def fail() -> None:
        raise error

    if kind == "def":

        @app.on("t")
        def in_a_thread() -> None:
            raise error
    else:

        @app.on("t")
        async def handler() -> None:
            await (asyncio.create_task(fail()) if kind == "in a child task" else fail())

    with pytest.raises(AttemptFailed, match=f"the handler raised {type(error).__name__}"):
        await handled(app, Event.new("t"))


@pytest.mark.parametrize("survives", [False, True])
async def test_a_failed_task_group_in_a_handler_does_not_affect_the_next_attempt(survives: bool) -> None:
    """Up to Python 3.12 it leaves its task as if cancelled, so that no time limit works in the task any more."""
    app, stored = App(), []

    @app.on("t")
    async def handler(event: Event) -> None:
        with suppress(ExceptionGroup) if survives else nullcontext():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail_soon())
        stored.append(event.id)

    async def fail_soon() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with nullcontext() if survives else pytest.raises(ExceptionGroup):
        await handled(app, Event.new("t", id="1"))
    assert stored == (["1"] if survives else [])
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_handlers_own_time_limits_do_not_cancel_it() -> None:
    app, ends = App(), []

    @app.on("t")
    async def handler() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait()).cancel()
        ends.append("ended")

    await handled(app, Event.new("t"))
    assert ends == ["ended"]


async def test_when_too_many_threads_are_abandoned_no_other_begins() -> None:
    app, may_end, seen = App(), threading.Event(), []

    @app.on("t", "both")
    def handler() -> None:
        may_end.wait()

    @app.on("both", "neither")
    async def other() -> None:
        seen.append("ran")

    with pytest.raises(TimeoutError):
        await handled(app, Event.new("t"), timeout_s=0.01)
    for kind in ("t", "both"):
        with pytest.raises(NoThread, match="run in their threads"):
            await handled(app, Event.new(kind), abandoned_threads_max=1)
    assert seen == []
    await handled(app, Event.new("neither"), abandoned_threads_max=1)
    assert seen == ["ran"]
    may_end.set()


async def test_middleware_does_not_run_when_no_thread_is_available() -> None:
    """Middleware could swallow the error, and the event would count as handled."""
    app = App()

    @app.middleware
    async def swallow(call: Call, call_next: CallNext) -> None:
        with suppress(Exception):
            await call_next()

    @app.on("t")
    def handler() -> None: ...

    with pytest.raises(NoThread):
        await handled(app, Event.new("t"), abandoned_threads_max=0)


async def test_the_id_of_an_emitted_event_depends_on_its_cause_its_handler_and_its_number() -> None:
    app, cause = App(), Event.new("t", id="cause", source="/s")

    @app.on("t")
    async def handler(event: Event) -> None:
        emitted = await event.emit(Event.new("next", {"n": 1}))
        assert emitted.id == follow_up_id("/s", "cause", app.name, handler.__qualname__, 0)
        event.emit(Event.new("next", {"n": 2}, source="/mine"))

    first, again = await handled(app, cause), await handled(app, cause)
    assert first.emitted == again.emitted
    one, two = map(Event.from_json, first.emitted)
    assert (one.source, two.source, one.id != two.id) == ("/oncecast", "/mine", True)
    assert two.id == follow_up_id("/s", "cause", app.name, handler.__qualname__, 1)


async def test_handlers_of_the_same_name_in_two_applications_emit_different_events() -> None:
    async def handler(event: Event) -> None:
        event.emit(Event.new("next"))

    ids = set()
    for name in ("shop", "billing"):
        app = App(name)
        app.on("t")(handler)
        ids.add(Event.from_json((await handled(app, Event.new("t", id="cause"))).emitted[0]).id)
    assert len(ids) == 2


async def test_an_event_that_no_producer_would_accept_fails_the_handler_that_emits_it() -> None:
    app = App()

    @app.on("t")
    async def handler(event: Event) -> None:
        event.emit(Event.new(""))

    def check(_raw: bytes) -> None:
        raise ValueError("type is empty")

    with pytest.raises(ValueError, match="type is empty"):
        await handled(app, Event.new("t"), check_emitted=check)


def test_only_an_event_passed_to_a_handler_can_emit() -> None:
    with pytest.raises(RuntimeError, match=r"oncecast\.Publisher"):
        Event.new("t").emit(Event.new("next"))


@pytest.mark.parametrize("what", [{"type": "next"}, None, "next"])
async def test_only_events_can_be_emitted_and_the_error_shows_how(what: Any) -> None:
    app = App()

    @app.on("t")
    async def handler(event: Event) -> None:
        event.emit(what)

    with pytest.raises(TypeError, match=r"emit takes an oncecast\.Event.*Event\.new"):
        await handled(app, Event.new("t"))


async def test_middleware_runs_around_every_handler_the_first_one_outermost() -> None:
    app, seen = App(), []

    @app.middleware
    async def outer(call: Call, call_next: CallNext) -> None:
        seen.append(f"outer {call.handler.rpartition('.')[2]} {len(call.events)}")
        await call_next()
        seen.append("outer ends")

    @app.middleware
    async def inner(call: Call, call_next: CallNext) -> None:
        seen.append("inner")
        await call_next()

    @app.on("t")
    async def handler() -> None:
        seen.append("handler")

    await handled(app, Event.new("t"))
    assert seen == ["outer handler 1", "inner", "handler", "outer ends"]


@pytest.mark.parametrize("is_innermost", [True, False])
async def test_middleware_that_calls_next_twice_fails_and_the_handler_runs_once(is_innermost: bool) -> None:
    app, seen = App(), []

    async def twice(call: Call, call_next: CallNext) -> None:
        await call_next()
        await call_next()

    async def once(call: Call, call_next: CallNext) -> None:
        seen.append("once")
        await call_next()

    for middleware in (once, twice) if is_innermost else (twice, once):
        app.middleware(middleware)

    @app.on("t")
    async def handler() -> None:
        seen.append("handler")

    with pytest.raises(RuntimeError, match=r"middleware .*twice.*handler .*Retry") as caught:
        await handled(app, Event.new("t"))
    assert seen == ["once", "handler"]
    assert classify(caught.value) is Cost.RETRY


async def test_middleware_cannot_try_a_handler_again_that_has_failed() -> None:
    app, runs = App(), []

    @app.middleware
    async def again(call: Call, call_next: CallNext) -> None:
        with suppress(ValueError):
            await call_next()
        await call_next()

    @app.on("t")
    async def handler() -> None:
        runs.append("run")
        raise ValueError("the first time")

    with pytest.raises(RuntimeError, match=r"call_next\(\) twice"):
        await handled(app, Event.new("t"))
    assert runs == ["run"]


async def test_middleware_may_call_next_once_for_each_call() -> None:
    app, seen = App(), []

    @app.middleware
    async def middleware(call: Call, call_next: CallNext) -> None:
        await call_next()

    @app.on("t", share_transaction=True)
    async def handler(number: int) -> None:
        seen.append(number)

    await handled(app, Event.new("t", 1), Event.new("t", 2))
    assert seen == [1, 2]


def test_middleware_with_a_wrong_signature_is_refused() -> None:
    with pytest.raises(ConfigError, match="wrong"):

        @App().middleware  # type: ignore[arg-type]
        async def wrong(call: Call) -> None: ...


class Shop:
    """A state."""

    def __init__(self) -> None:
        self.is_open = True


async def test_handlers_get_the_state_of_the_lifespan_until_it_ends() -> None:
    shops = []

    async def lifespan(app: App) -> AsyncIterator[Shop]:
        shop = Shop()
        shops.append((app.name, shop))
        yield shop
        shop.is_open = False

    app = App("shop", lifespan=lifespan)

    @app.on("t")
    async def handler(shop: Shop) -> None:
        assert shop.is_open

    async with app.alive():
        await handled(app, Event.new("t"))
    ((name, shop),) = shops
    assert (name, shop.is_open) == ("shop", False)


async def test_a_lifespan_may_be_a_context_manager() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Shop]:
        yield Shop()

    app = App(lifespan=lifespan)

    @app.on("t")
    async def handler(shop: Shop) -> None:
        assert shop.is_open

    async with app.alive():
        await handled(app, Event.new("t"))


async def test_a_lifespan_that_fails_to_begin_is_reported_in_one_line() -> None:
    async def connect() -> None:
        raise ConnectionError("no route")

    async def lifespan() -> AsyncIterator[None]:
        await connect()
        yield

    with pytest.raises(StartError, match=r"lifespan .*ConnectionError: no route"):
        async with App(lifespan=lifespan).alive():
            pass


def bounds(stop: asyncio.Event, telemetry_events: list[TelemetryEvent]) -> Bounds:
    return Bounds(stop, 0.05, telemetry_events.append)


async def test_a_lifespan_that_began_just_before_the_stop_ends_normally() -> None:
    stop, seen = asyncio.Event(), []

    async def lifespan() -> AsyncIterator[Shop]:
        try:
            stop.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("would not hear of it")
        yield Shop()
        seen.append("ended")

    async with App(lifespan=lifespan).alive(bounds(stop, [])):
        pass
    assert seen == ["would not hear of it", "ended"]


async def test_the_end_of_a_lifespan_is_cancelled_after_its_time_and_its_own_error_is_raised() -> None:
    telemetry_events: list[TelemetryEvent] = []

    async def slow() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    async def wrong() -> AsyncIterator[None]:
        yield
        raise TimeoutError("its own")

    async with App(lifespan=slow).alive(bounds(asyncio.Event(), telemetry_events)):
        pass
    (telemetry,) = telemetry_events
    assert isinstance(telemetry, LifespanCutShort)
    with pytest.raises(TimeoutError, match="its own"):
        async with App(lifespan=wrong).alive(bounds(asyncio.Event(), telemetry_events)):
            pass
    assert len(telemetry_events) == 1


@pytest.mark.parametrize(
    "state", [dict, dict[str, Any], Mapping[str, Any], list[Shop], Any, object, int | None, Shop | str, Decimal]
)
def test_a_state_must_have_its_own_class_so_that_it_differs_from_data(state: Any) -> None:
    async def lifespan() -> AsyncIterator[Any]:
        yield None

    lifespan.__annotations__ = {"return": AsyncIterator[state]}
    with pytest.raises(ConfigError, match=r"lifespan .*lifespan yields .*class of your own"):
        App(lifespan=lifespan)


@pytest.mark.parametrize("state", [Shop, Shop | None, asyncio.Queue[int], Written])
def test_a_state_may_have_any_class_except_plain_data(state: Any) -> None:
    async def lifespan() -> AsyncIterator[Any]:
        yield None

    lifespan.__annotations__ = {"return": AsyncIterator[state]}
    App(lifespan=lifespan)


async def untyped():  # type: ignore[no-untyped-def]
    yield 1


async def no_generator() -> None: ...


@pytest.mark.parametrize("lifespan", [untyped, no_generator, print])
def test_a_lifespan_must_declare_what_it_yields(lifespan: Any) -> None:
    with pytest.raises(ConfigError, match="lifespan"):
        App(lifespan=lifespan)


@pytest.mark.parametrize(("after", "after_s"), [("500ms", 0.5), (2, 2.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_retry_accepts_a_text_seconds_or_a_timedelta(after: Any, after_s: float) -> None:
    assert Retry(after=after).after_s == after_s


@pytest.mark.parametrize(
    "after", ["soon", -1, float("nan"), float("inf"), "1 year", None, [1], timedelta(seconds=-1), b"3"]
)
def test_a_retry_refuses_an_invalid_duration(after: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        Retry(after=after)
