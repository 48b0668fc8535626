"""What stands alongside a user's application says how it is tried; what cannot be used is one clear line."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from oncecast.app.application import App
from oncecast.chaos.evidence import derived_ids
from oncecast.chaos.subject import Subject, of_user
from oncecast.core.errors import ConfigError
from oncecast.core.event import follow_up_id
from oncecast.event import Event


def subject(file: Path | None = None, **attributes: Any) -> Subject:
    """Of the application `shop:app`, whose module has `attributes`."""
    module = ModuleType("shop")
    for name, value in attributes.items():
        setattr(module, name, value)
    return of_user(App("shop"), module, "shop:app", Path(), file)


def orders(draw: random.Random) -> Any:
    """Without end."""
    while True:
        yield Event.new("order", {"n": draw.randrange(1000)})


def test_a_module_gives_events_its_tables_its_checks_and_what_may_die() -> None:
    given = subject(
        chaos_events=orders, chaos_setup="create table t ()", chaos_checks={"none": "select"}, chaos_may_die=["bad.*"]
    )
    assert (given.group, given.setup, given.checks) == ("shop", "create table t ()", {"none": "select"})
    assert (given.rules.may_be_dead, given.replayed) == (("bad.*",), ("bad.*",))


def test_events_are_all_that_a_module_has_to_give_and_the_same_seed_draws_the_same() -> None:
    given = subject(chaos_events=orders)
    first, again = ([event.data for event in islice(given.events(random.Random(7)), 5)] for _ in range(2))
    assert first == again
    assert (given.setup, given.checks, given.rules.may_be_dead) == ("", {}, ())


def test_the_events_of_a_file_come_over_and_over_each_time_under_new_ids(tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_text(
        '{"type": "order", "n": 1}\n\n{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 5}\n'
    )
    events = list(islice(subject(file).events(random.Random(1)), 4))
    assert [(event.type, event.source, event.data) for event in events] == [
        ("order", "/oncecast", {"type": "order", "n": 1}),
        ("t", "/s", 5),
    ] * 2
    assert len({event.id for event in events}) == 4


def failing(draw: random.Random) -> Any:
    """Of no use."""
    yield from ()
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {},
            "there are no events to publish: write 'def chaos_events(draw: random.Random) -> Iterator[Event]' in"
            " module shop, or name a file with --events",
        ),
        ({"chaos_events": lambda draw: []}, "shop.chaos_events yields no event"),
        ({"chaos_events": lambda draw: [{}]}, "shop.chaos_events yields a dict; it is to yield oncecast.Event"),
        ({"chaos_events": failing}, "shop.chaos_events failed at event 1: ZeroDivisionError: division by zero"),
        ({"chaos_events": orders, "chaos_setup": 1}, "shop.chaos_setup is no text of SQL"),
        (
            {"chaos_events": orders, "chaos_checks": ["select 1"]},
            'shop.chaos_checks is no dict of queries by name, {"sold equals events": "select …"}',
        ),
        (
            {"chaos_events": orders, "chaos_may_die": "order"},
            "shop.chaos_may_die is no sequence of event types, such as ('order.impossible',)",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_said_how_it_should_be(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        subject(**attributes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--events: there is no event in {file}"),
        ('{"type": "a"}\n[]\n', "--events: {file}, line 2 is no event: Expected `object`, got `array`"),
        (
            '{"specversion": "1.0", "id": "1"}\n',
            "--events: {file}, line 1 is no event: a CloudEvent has a source",
        ),
    ],
)
def test_a_file_without_events_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        subject(file)
    assert str(caught.value) == message.format(file=file)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        subject(tmp_path / "none.ndjson")


def test_the_ids_of_follow_ups_are_known_from_what_is_stored_and_who_handles_it() -> None:
    app = App("shop")

    @app.on("order.*")
    async def reserve(event: Event) -> None:
        """A handler."""

    derived = derived_ids(app, [("/s", "1", "order.created"), ("/s", "2", "other")])
    name = "test_the_ids_of_follow_ups_are_known_from_what_is_stored_and_who_handles_it.<locals>.reserve"
    assert follow_up_id("/s", "1", "shop", name, 3) in derived
    assert follow_up_id("/s", "2", "shop", name, 0) not in derived
