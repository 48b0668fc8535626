"""Handlers are checked where they are defined, and run in their order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oncecast import Event, Listener, Transaction
from oncecast.core.errors import ConfigError
from tests.support.arrivals import arrivals


@pytest.mark.parametrize("types", [(), ("",), (print,), ("a*b",)])
def test_a_handler_needs_types(types: Any) -> None:
    with pytest.raises(ConfigError, match="event type"):
        Listener("shop").on(*types)


async def test_handlers_of_a_type_run_in_the_order_of_their_definition_with_the_decoded_event() -> None:
    app, seen = Listener("shop"), []

    @app.on("a", "b")
    async def first(event: Event, tx: Transaction) -> None:
        seen.append(("first", event.data))

    @app.on("a")
    async def second(event: Event, tx: Transaction) -> None:
        seen.append(("second", event.data))

    (arrival,) = arrivals(1, type="a")
    arrival.raw = msgspec.Raw(Event.new("a", {"n": 1}).to_json())
    await app.handle([arrival], None, timeout_s=1)  # type: ignore[arg-type]
    assert seen == [("first", {"n": 1}), ("second", {"n": 1})]
    assert (app.concerns("a"), app.concerns("b"), app.concerns("c")) == (True, True, False)
