"""The documents of producers and listeners are valid, and describe exactly the routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from openapi_spec_validator import validate
from starlette.routing import BaseRoute, Route

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core import wire
from oncecast.listener.http.app import listener_app
from oncecast.listener.http.app import right_for as listener_right
from oncecast.listener.http.conflicts import conflicts_routes
from oncecast.listener.http.dead_letters import dead_letter_routes
from oncecast.listener.http.openapi import listener_document
from oncecast.listener.http.pruning import pruning_routes
from oncecast.producer.api_document import producer_document, websocket_document
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.producer.app import right_for as producer_right
from oncecast.tasks import Essentials
from oncecast.testing.memory.journal import MemoryJournal

UNUSED: Any = SimpleNamespace()
ANYTHING: Any = Mock()
PAGES = {"/", "/docs"}
"""Routes for browsers, which need no description."""


def producer_routes() -> Iterable[BaseRoute]:
    made = Producer(
        MemoryJournal(SYSTEM_CLOCK),
        ProducerSettings(instance="p"),
        SYSTEM_CLOCK,
        metrics=bytes,
        record=lambda _event: None,
    )
    return made.pages.routes


def listener_routes() -> Iterable[BaseRoute]:
    dead_letters = dead_letter_routes(
        ANYTHING, UNUSED, SYSTEM_CLOCK, standby_reason=lambda: None, record=lambda _event: None
    )
    conflicts = conflicts_routes(ANYTHING, UNUSED, standby_reason=lambda: None, record=lambda _event: None)
    further = [*dead_letters, *conflicts, *pruning_routes(UNUSED)]
    return listener_app(
        UNUSED, UNUSED, further, health=ANYTHING, essentials=Essentials(SYSTEM_CLOCK, end_within_s=1), metrics=bytes
    ).routes


def served(routes: Iterable[BaseRoute]) -> set[tuple[str, str]]:
    return {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in routes
        if isinstance(route, Route) and route.path not in PAGES
        for method in (route.methods or set()) - {"HEAD"}
    }


@pytest.mark.parametrize(
    ("routes", "described"),
    [
        (producer_routes, producer_document(producer_right)),
        (listener_routes, listener_document(listener_right)),
    ],
    ids=["producer", "listener"],
)
async def test_a_document_is_valid_and_has_exactly_the_routes(routes: Any, described: Any) -> None:
    validate(described)
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == served(routes())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "$ref":
                yield member
            else:
                yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


@pytest.mark.parametrize(
    "described",
    [producer_document(producer_right), listener_document(listener_right), websocket_document()],
    ids=["producer", "listener", "websocket"],
)
def test_every_reference_resolves(described: Any) -> None:
    for reference in references(described):
        found = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_the_websocket_document_describes_every_frame() -> None:
    described = websocket_document()
    assert described["asyncapi"].startswith("3.")
    frames = [*wire.ServerFrame.__args__, *wire.ClientFrame.__args__]
    assert set(described["channels"]["listeners"]["messages"]) == {frame.__name__ for frame in frames}
    for frame in frames:
        schema = described["components"]["schemas"][frame.__name__]
        assert set(schema["properties"]) == {"verb", *frame.__struct_fields__}
    said = [message["$ref"] for name in ("feed", "follow") for message in described["operations"][name]["messages"]]
    assert {reference.rpartition("/")[2] for reference in said} == {frame.__name__ for frame in frames}
