"""The application: its handlers and middleware, and how they are called for an event."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import msgspec

from oncecast import forks
from oncecast.app.arguments import Arguments, Given
from oncecast.app.functions import check_function, name_of, written
from oncecast.app.isolation import RunOptions, run_isolated
from oncecast.app.lifespan import Bounds, Lifespan
from oncecast.app.plan import STORE_ONLY, Handler, Plan, check_place
from oncecast.app.selectors import selectors_of
from oncecast.app.threads import Threads, ThreadTransaction
from oncecast.core.errors import ConfigError, DataInvalid
from oncecast.core.event import Arrival, follow_up_id
from oncecast.core.telemetry import HandlerRan
from oncecast.core.transaction import OpenTransaction
from oncecast.event import Event
from oncecast.observe.context import handling

OWN_TYPES = "oncecast."
"""The prefix of the types of Oncecast's own events."""
BATCH_MAX_EVENTS = 500
BATCH_LIMIT_EVENTS = 1_000
PLANS_KEPT = 10_000
"""The most plans that are kept, one per type: a publisher may send any number of types."""

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call of a handler, as middleware sees it: the handler's name, event(s) and transaction."""

    handler: str
    events: Sequence[Event]
    tx: Any
    state: Any


CallNext = Callable[[], Awaitable[None]]
Middleware = Callable[[Call, CallNext], Awaitable[None]]


class App:
    """An application: a name and its handlers. The name is also its group's, unless LISTENER_GROUP is set.

    `lifespan` is an async generator function (or an `asynccontextmanager`) that yields once, between start and end of
    the process. Its annotation names the type of the yielded object, such as `AsyncIterator[Shop]`. A handler gets
    the object through a parameter of that type.

    >>> app = App("shop")
    >>> @app.on("order.created")
    ... async def reserve_stock(event: Event, tx: Transaction) -> None:
    ...     await tx.execute("update stock set free = free - 1 where sku = %s", (event.data["sku"],))
    """

    def __init__(self, name: str = "oncecast", *, lifespan: Callable[..., Any] | None = None) -> None:
        self.name = name
        self._lifespan = Lifespan(lifespan, self)
        self._state: Any = None
        self._handlers: list[Handler] = []
        self._middleware: list[Middleware] = []
        self._plans: dict[str, Plan] = {}
        self._plans_by_handlers: dict[tuple[Handler, ...], Plan] = {(): STORE_ONLY}
        self._by_source = False
        self._threads = Threads()

    # --- registering ---------------------------------------------------------------------------------------

    def on(
        self, *types: str, source: str | None = None, ordered_by: str | None = None, share_transaction: bool = False
    ) -> Callable[[HandlerT], HandlerT]:
        """Run the decorated `async def` or `def` for each event of these types, exactly once.

        Types and `source` are exact, or patterns such as `order.*`. What the handler writes on its transaction
        commits together with the event's row, or not at all. Several handlers of one event run in the order of their
        definition, in one transaction.

        `ordered_by` names a CloudEvents attribute (`subject`) or a path in the data (`data.account`). Events with the
        same value run one at a time, in the order of their journal, across all listeners of the group.

        `share_transaction=True` is for handlers that only write SQL: events that arrive together share a transaction.
        If one fails, each runs again in a transaction of its own.

        Raises ConfigError if the handler has an unsupported signature.
        """
        if ordered_by is not None:
            check_place(ordered_by)
        if ordered_by and share_transaction:
            raise ConfigError(
                "ordered_by and share_transaction exclude each other: an ordered event needs its own transaction"
            )
        return self._register(
            types, source, sys._getframe(1).f_locals, shared=share_transaction, ordered_by=ordered_by
        )

    def on_batch(
        self, *types: str, source: str | None = None, max_events: int = BATCH_MAX_EVENTS
    ) -> Callable[[HandlerT], HandlerT]:
        """Run the decorated function for up to `max_events` events of these types at a time: `list[Event]`.

        A batch has the events that have arrived, in one transaction. If it fails, it is halved until the failing
        event is alone. If an event also has handlers of `on`, all of them run in this transaction.
        """
        if not isinstance(max_events, int) or not 1 <= max_events <= BATCH_LIMIT_EVENTS:
            raise ConfigError(f"max_events={max_events!r}: expected a whole number from 1 to {BATCH_LIMIT_EVENTS}")
        return self._register(types, source, sys._getframe(1).f_locals, batch_max=max_events)

    def middleware(self, middleware: Middleware) -> Middleware:
        """Run the decorated `async def middleware(call, call_next)` around every call of a handler.

        The middleware awaits `call_next()` once. An exception of `call_next()` fails the attempt, unless the
        middleware catches it. A second `call_next()` raises RuntimeError. The middleware defined first is
        outermost.
        """
        if not inspect.iscoroutinefunction(middleware) or len(inspect.signature(middleware).parameters) != 2:
            name = getattr(middleware, "__qualname__", repr(middleware))
            raise ConfigError(f"middleware {name} must be an 'async def' with two parameters, (call, call_next)")
        self._middleware.append(middleware)
        return middleware

    def _register(
        self, types: tuple[str, ...], source: str | None, names: Mapping[str, Any], **options: Any
    ) -> Callable[[HandlerT], HandlerT]:
        selectors = selectors_of(types, source)

        def register(function: HandlerT) -> HandlerT:
            check_function(function)
            name = name_of(function)
            taken = sum(name_of(handler.function) == name for handler in self._handlers)
            arguments = Arguments(
                function, in_batches="batch_max" in options, state=self._lifespan.yields, names=names
            )
            handler = Handler(
                f"{name}#{taken + 1}" if taken else name,
                function,
                arguments,
                selectors,
                is_async=inspect.iscoroutinefunction(written(function)),
                **options,
            )
            self._check_order(handler)
            self._handlers.append(handler)
            self._by_source = self._by_source or source is not None
            self._plans.clear()
            return function

        return register

    def _check_order(self, new: Handler) -> None:
        """Raise ConfigError if one event could have handlers that are ordered by different things."""
        for handler in self._handlers:
            if not (new.ordered_by and handler.ordered_by) or new.ordered_by == handler.ordered_by:
                continue
            if any(one.meets(other) for one in new.selectors for other in handler.selectors):
                raise ConfigError(
                    f"handlers {handler.name} and {new.name} can get the same event, but are ordered by different"
                    f" things: {handler.ordered_by!r} and {new.ordered_by!r}"
                )

    @property
    def packages(self) -> frozenset[str]:
        """The names of the packages or modules that define the handlers."""
        return frozenset(written(handler.function).__module__.partition(".")[0] for handler in self._handlers)

    # --- choosing handlers -----------------------------------------------------------------------------------

    @property
    def selectors(self) -> frozenset[str]:
        """The handled types, sources and orders, without Oncecast's own; the listeners of a group compare them."""
        names = set()
        for handler in self._handlers:
            for selector in handler.selectors:
                if not selector.type.startswith(OWN_TYPES):
                    names.add(str(selector))
                    if handler.ordered_by:
                        names.add(f"{selector} ordered by {handler.ordered_by}")
        return frozenset(names)

    @property
    def has_order(self) -> bool:
        """Whether any handler is ordered."""
        return any(handler.ordered_by for handler in self._handlers)

    @property
    def batch_sizes(self) -> list[int]:
        """The maximum number of events per transaction of each handler, without Oncecast's own."""
        return [
            handler.together_max
            for handler in self._handlers
            if not all(selector.type.startswith(OWN_TYPES) for selector in handler.selectors)
        ]

    def plan_of(self, type: str, source: str) -> Plan:
        """Return the plan for events of this type and source; the same object for the same handlers."""
        plan = self._plans.get(f"{type}\0{source}" if self._by_source else type)
        return self._make_plan(type, source) if plan is None else plan

    def concerns(self, type: str, source: str = "") -> bool:
        """Return whether events of this type and source have a handler."""
        return bool(self.plan_of(type, source).handlers)

    def _make_plan(self, type: str, source: str) -> Plan:
        if len(self._plans) >= PLANS_KEPT:
            self._plans.clear()
        handlers = tuple(h for h in self._handlers if any(s.selects(type, source) for s in h.selectors))
        plan = self._plans_by_handlers.get(handlers)
        if plan is None:
            plan = self._plans_by_handlers[handlers] = Plan(handlers)
        self._plans[f"{type}\0{source}" if self._by_source else type] = plan
        return plan

    def check_threads(self, plan: Plan, abandoned_max: int) -> None:
        """Fail if `plan` needs a thread and `abandoned_max` threads still run after their time-out."""
        if plan.in_threads:
            self._threads.check(abandoned_max)

    # --- running ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def alive(self, bounds: Bounds | None = None) -> AsyncIterator[None]:
        """Run the lifespan around the block; handlers get what it yields. Raises StartError if it fails to begin."""
        forks.guard(asyncio.get_running_loop())
        async with self._lifespan.begun(bounds) as self._state:
            yield

    @asynccontextmanager
    async def given(self, state: Any) -> AsyncIterator[None]:
        """Pass `state` to handlers within the block, instead of running the lifespan."""
        forks.guard(asyncio.get_running_loop())
        self._state = state
        yield

    async def handle(self, arrivals: Sequence[Arrival], tx: OpenTransaction, options: RunOptions) -> None:
        """Run the handlers of `arrivals`, all of one plan, in order. Raises what they raise.

        All together may take `options.timeout_s`. Fails before anything runs if `check_threads` does.
        """
        plan = self.plan_of(arrivals[0].type, arrivals[0].source)
        self.check_threads(plan, options.abandoned_threads_max)
        await run_isolated(self._call_in_parent(plan, arrivals, tx, options), options)

    async def _call_in_parent(
        self, plan: Plan, arrivals: Sequence[Arrival], tx: OpenTransaction, options: RunOptions
    ) -> None:
        """Call all handlers. A child process that a handler forked ends when the handler returns."""
        try:
            await self._call_all(plan, arrivals, tx, options)
        except BaseException as error:
            forks.end_child(error)
            raise
        forks.end_child()

    async def _call_all(
        self, plan: Plan, arrivals: Sequence[Arrival], tx: OpenTransaction, options: RunOptions
    ) -> None:
        if plan.in_batches:
            for handler in plan.handlers:
                for call in [arrivals] if handler.batch_max else [[arrival] for arrival in arrivals]:
                    await self._call(handler, call, tx, options)
            return
        for arrival in arrivals:
            for handler in plan.handlers:
                await self._call(handler, [arrival], tx, options)

    async def _call(
        self, handler: Handler, arrivals: Sequence[Arrival], tx: OpenTransaction, options: RunOptions
    ) -> None:
        events = [_read(a, self._emitter(a, handler, tx, options.check_emitted)) for a in arrivals]
        given_tx = tx if handler.is_async else ThreadTransaction(tx)
        given = Given(events, given_tx, self._state)
        call_next: CallNext = partial(self._run, handler, given)
        if self._middleware:
            call = Call(handler.name, events, tx, self._state)
            for around in reversed(self._middleware):
                call_next = partial(around, call, _once(call_next, around, handler))
        began_s = options.clock.monotonic_s()
        try:
            with handling([arrival.id for arrival in arrivals]):
                await call_next()
        finally:
            options.record(HandlerRan(handler.name, options.clock.monotonic_s() - began_s))

    def _emitter(
        self, arrival: Arrival, handler: Handler, tx: OpenTransaction, check: Callable[[bytes], None] | None
    ) -> Callable[[Event], Event]:
        """Return the function that adds what `handler` emits for `arrival` to the transaction."""
        count = 0

        def emit(follow_up: Event) -> Event:
            nonlocal count
            # rule: a follow-up event derives its id from its cause
            id_ = follow_up_id(arrival.source, arrival.id, self.name, handler.name, count)
            follow_up = dataclasses.replace(follow_up, id=id_, emitter=None)
            raw = follow_up.to_json()
            if check is not None:
                check(raw)
            count += 1
            tx.emitted.append(raw)
            return follow_up

        return emit

    async def _run(self, handler: Handler, given: Given) -> None:
        arguments = handler.arguments.of(given)
        if handler.is_async:
            await handler.function(**arguments)
            return
        result = await self._threads.run(partial(handler.function, **arguments))
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"{handler.name} is a plain 'def' that returns a coroutine: its wrapper must be 'async def'"
            )


def _read(arrival: Arrival, emitter: Callable[[Event], Event]) -> Event:
    """Return the event for a handler. Raises DataInvalid if its JSON cannot be read in any attempt."""
    try:
        return Event.from_json(arrival.raw, emitter)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataInvalid(f"the event's JSON cannot be read: {error}") from error


def _once(call_next: CallNext, middleware: Middleware, handler: Handler) -> CallNext:
    """Return a `call_next` that fails when it is called again: the handler must not run twice."""
    called_next = False

    async def call_next_once() -> None:
        nonlocal called_next
        if called_next:
            raise RuntimeError(
                f"middleware {name_of(middleware)} called call_next() twice for handler {handler.name};"
                " call it once: to try again, let the error propagate or raise oncecast.Retry"
            )
        called_next = True
        await call_next()

    return call_next_once
