"""Whether a listener may work: only with all handlers of the newest application of its group."""

from __future__ import annotations

from oncecast.core.telemetry import StandbyEntered
from oncecast.listener.background.standby import Standby
from oncecast.testing.memory import MemoryEvents
from tests.simulation.clock import VirtualClock
from tests.support.memory_servers import Link, MemoryServers
from tests.support.virtual_time import in_virtual_time, running

ORDERS, MAIL = "orders on order.placed", "mail on order.placed"
LACKS_MAIL = f"the group's application handles {MAIL}, and this one does not"


class Group:
    """Listeners of one group, each with an application of its own."""

    def __init__(self, clock: VirtualClock) -> None:
        self.servers = MemoryServers(clock)
        self.link = Link()
        """The way of the listener that joined last."""

    def join(self, *handlers: str, force: bool = False) -> Standby:
        """A listener whose application has these handlers."""
        self.link = Link()
        events = MemoryEvents(self.servers.postgres, instance="a", token="a", call=self.link.call)
        clock, record = self.servers.clock, self.servers.telemetry_events.append
        return Standby(events, frozenset(handlers), clock, force=force, record=record)


@in_virtual_time
async def test_the_first_listener_of_a_group_records_its_handlers_and_works(clock: VirtualClock) -> None:
    group = Group(clock)
    first = group.join(ORDERS)
    assert (first.allowed.is_set(), first.standby_reason) == (False, "it is starting")
    await first.ask()
    assert (first.allowed.is_set(), first.standby_reason) == (True, None)
    assert group.servers.postgres.tables.revisions == [frozenset({ORDERS})]


@in_virtual_time
async def test_a_listener_with_more_handlers_works_and_the_others_stop(clock: VirtualClock) -> None:
    group = Group(clock)
    old, new = group.join(ORDERS), group.join(ORDERS, MAIL)
    await old.ask()
    await new.ask()
    assert new.allowed.is_set()
    assert not old.lost.is_set()
    await old.ask()
    assert (old.lost.is_set(), old.standby_reason) == (True, LACKS_MAIL)


@in_virtual_time
async def test_a_listener_that_lacks_a_handler_goes_on_standby_and_reports_it_once(clock: VirtualClock) -> None:
    group = Group(clock)
    await group.join(ORDERS, MAIL).ask()
    lacking = group.join(ORDERS)
    for _ in range(3):
        await lacking.ask()
    assert (lacking.allowed.is_set(), lacking.lost.is_set(), lacking.standby_reason) == (False, False, LACKS_MAIL)
    assert group.servers.telemetry_events == [StandbyEntered(LACKS_MAIL)]


@in_virtual_time
async def test_of_many_missing_handlers_five_are_named(clock: VirtualClock) -> None:
    group = Group(clock)
    await group.join(*(f"h{n}" for n in range(6))).ask()
    lacking = group.join()
    await lacking.ask()
    assert lacking.reason == "the group's application handles h0, h1, h2, h3, h4, …, and this one does not"


@in_virtual_time
async def test_an_application_may_be_forced_on_the_group_though_it_lacks_handlers(clock: VirtualClock) -> None:
    group = Group(clock)
    before = group.join(ORDERS, MAIL)
    await before.ask()
    forced = group.join(ORDERS, force=True)
    await forced.ask()
    assert forced.allowed.is_set()
    await before.ask()
    assert before.standby_reason is None, "it has all handlers of the group, and more"


@in_virtual_time
async def test_an_application_is_forced_on_the_group_only_once(clock: VirtualClock) -> None:
    group = Group(clock)
    forced = group.join(ORDERS, force=True)
    await forced.ask()
    await group.join(ORDERS, MAIL).ask()
    await forced.ask()
    assert (forced.lost.is_set(), forced.standby_reason) == (True, LACKS_MAIL)


@in_virtual_time
async def test_a_listener_leaves_standby_once_the_group_needs_no_handler_that_it_lacks(
    clock: VirtualClock,
) -> None:
    group = Group(clock)
    await group.join(ORDERS, MAIL).ask()
    waiting = group.join(ORDERS)
    await waiting.ask()
    await group.join(ORDERS, force=True).ask()
    await waiting.ask()
    assert (waiting.allowed.is_set(), waiting.standby_reason) == (True, None)


@in_virtual_time
async def test_while_postgresql_is_down_standby_does_not_change(clock: VirtualClock) -> None:
    group = Group(clock)
    working = group.join(ORDERS)
    await working.ask()
    way = group.link
    await group.join(ORDERS, MAIL).ask()
    way.error = ConnectionRefusedError("refused")
    await working.ask()
    assert (working.allowed.is_set(), working.lost.is_set(), working.standby_reason) == (True, False, None)


@in_virtual_time
async def test_an_application_that_could_not_be_forced_while_postgresql_was_away_is_forced_later(
    clock: VirtualClock,
) -> None:
    group = Group(clock)
    await group.join(ORDERS, MAIL).ask()
    forced = group.join(ORDERS, force=True)
    group.link.next_errors = [ConnectionRefusedError("refused")]
    await forced.ask()
    assert not forced.allowed.is_set()
    await forced.ask()
    assert forced.allowed.is_set()


@in_virtual_time
async def test_the_group_is_asked_about_every_second_until_the_listener_has_to_stop(clock: VirtualClock) -> None:
    group = Group(clock)
    working = group.join(ORDERS)
    way = group.link
    async with running(working.watch_loop()):
        await clock.sleep(3.5)
        assert (way.calls, working.lost.is_set()) == (4, False)
        await group.join(ORDERS, MAIL).ask()
        await clock.sleep(10.0)
    assert (way.calls, working.lost.is_set()) == (5, True)
