"""Plans: the handlers of an event, their order, and how many events share an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oncecast import App, Event
from oncecast.app.plan import key_of
from oncecast.core.errors import ConfigError
from oncecast.core.event import Arrival
from tests.support.arrivals import arrivals


async def handler(event: Event) -> None: ...
async def batch_handler(events: list[Event]) -> None: ...


def arrival_of(event: Event) -> Arrival:
    (arrival,) = arrivals(1)
    arrival.raw = msgspec.Raw(event.to_json())
    return arrival


def test_a_plan_has_the_handlers_that_match_type_and_source_in_the_order_of_their_definition() -> None:
    app = App()
    app.on("order.*")(handler)
    app.on_batch("order.created", source="/shop")(batch_handler)
    names = [h.name for h in app.plan_of("order.created", "/shop").handlers]
    assert names == ["handler", "batch_handler"]
    assert [h.name for h in app.plan_of("order.created", "/other").handlers] == ["handler"]
    assert app.plan_of("tick", "/shop").handlers == ()


def test_events_of_the_same_handlers_have_the_same_plan_whatever_their_type() -> None:
    app = App()
    app.on_batch("order.*")(batch_handler)
    assert app.plan_of("order.created", "/s") is app.plan_of("order.paid", "/s")


def test_a_function_that_is_registered_twice_has_two_names_so_that_it_emits_two_events() -> None:
    app = App()
    app.on("t")(handler)
    app.on("t")(handler)
    assert [h.name for h in app.plan_of("t", "/s").handlers] == ["handler", "handler#2"]


@pytest.mark.parametrize(
    ("options", "together_max"),
    [
        ([{}], 1),
        ([{"share_transaction": True}], 100),
        ([{"share_transaction": True}, {}], 1),
        ([{"ordered_by": "subject"}], 1),
    ],
)
def test_events_share_an_attempt_if_all_their_handlers_allow_it(
    options: list[dict[str, Any]], together_max: int
) -> None:
    app = App()
    for option in options:
        app.on("t", **option)(handler)
    assert app.plan_of("t", "/s").together_max == together_max


def test_a_batch_has_at_most_max_events() -> None:
    app = App()
    app.on_batch("t", max_events=7)(batch_handler)
    assert app.plan_of("t", "/s").together_max == 7


def test_a_failed_batch_is_halved_and_a_failed_shared_transaction_is_split_into_single_events() -> None:
    app = App()
    app.on_batch("batch")(batch_handler)
    app.on("shared", share_transaction=True)(handler)
    work = arrivals(5)
    assert list(map(len, app.plan_of("batch", "/s").parts(work))) == [2, 3]
    assert list(map(len, app.plan_of("shared", "/s").parts(work))) == [1] * 5


@pytest.mark.parametrize("size", [0, 1001, 2.5, "many"])
def test_a_batch_has_1_to_1000_events(size: Any) -> None:
    with pytest.raises(ConfigError, match="max_events"):
        App().on_batch("t", max_events=size)


@pytest.mark.parametrize(
    ("ordered_by", "event", "key"),
    [
        ("subject", Event.new("t", subject="a"), 'subject="a"'),
        ("subject", Event.new("t"), None),
        ("source", Event.new("t", source="/x"), 'source="/x"'),
        ("tenant", Event.new("t", extensions={"tenant": 7}), "tenant=7"),
        ("data.account", Event.new("t", {"account": 1}), "data.account=1"),
        ("data.account", Event.new("t", {"account": "1"}), 'data.account="1"'),
        ("data.account.id", Event.new("t", {"account": {"id": [1]}}), "data.account.id=[1]"),
        ("data.account.id", Event.new("t", {"account": 3}), None),
        ("data.account", Event.new("t", "text"), None),
        ("data.account", Event.new("t", {"account": None}), None),
        ("data.account", Event.new("t", b"binary"), None),
        ("data.account", Event(id="1", source="/s", type="t", raw_data=b'{"account":1e999}'), None),
    ],
)
def test_a_key_is_its_path_and_its_value_as_json(ordered_by: str, event: Event, key: str | None) -> None:
    assert key_of(ordered_by)(arrival_of(event)) == key


def test_two_different_orders_for_one_event_are_refused_by_name() -> None:
    app = App()
    app.on("account.*", ordered_by="subject")(handler)
    app.on("payment.*", ordered_by="data.account")(handler)
    with pytest.raises(ConfigError, match=r"'subject' and 'data.account'"):
        app.on("account.opened", ordered_by="data.account")(handler)


@pytest.mark.parametrize("ordered_by", ["", ".", "data.", 3, "Subject", "sub_ject", "subject.name", "a" * 65])
def test_an_invalid_ordered_by_is_refused(ordered_by: Any) -> None:
    with pytest.raises(ConfigError, match="ordered_by"):
        App().on("t", ordered_by=ordered_by)


def test_the_selectors_of_an_application_include_sources_and_orders() -> None:
    app = App()
    app.on("account.*", source="/bank", ordered_by="subject")(handler)
    app.on("oncecast.failing", "order.created")(handler)
    assert app.selectors == {"account.* from /bank", "account.* from /bank ordered by subject", "order.created"}


def test_a_long_key_is_replaced_by_its_hash() -> None:
    key = key_of("data.account")
    long, same, other = (key(arrival_of(Event.new("t", {"account": text * 100_000}))) for text in ("a", "a", "b"))
    assert long == same != other
    assert long is not None
    assert len(long) < 100
