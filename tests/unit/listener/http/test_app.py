"""The listener's API blames a parameter only for what is wrong with that parameter."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import InvalidPageMark
from oncecast.core.health import Part, Status
from oncecast.listener.http.app import listener_app
from oncecast.listener.recent import Recent
from oncecast.tasks import Essentials


class BrokenReader:
    """Raises what it was made with."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def newest(self, **_: Any) -> list[dict[str, Any]]:
        raise self._error

    async def retrying(self, **_: Any) -> list[dict[str, Any]]:
        raise self._error

    async def gaps(self) -> list[dict[str, Any]]:
        raise self._error


def client_of(error: Exception) -> httpx2.AsyncClient:
    health: Any = SimpleNamespace(parts={"database": Part(status=Status.OK, since=datetime.now(UTC))})
    app = listener_app(
        BrokenReader(error),
        Recent("a", SYSTEM_CLOCK),
        [],
        health=lambda: health,
        essentials=Essentials(SYSTEM_CLOCK, end_within_s=1),
        metrics=bytes,
    )
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost")


async def test_a_page_mark_that_no_page_returned_is_refused() -> None:
    async with client_of(InvalidPageMark("no mark")) as client:
        answer = await client.get("/api/events?after=x")
    assert (answer.status_code, "invalid `after`" in answer.text) == (400, True)


@pytest.mark.parametrize("path", ["/api/gaps", "/api/events", "/api/events/x"])
async def test_an_error_of_the_server_is_not_blamed_on_a_parameter(path: str) -> None:
    async with client_of(ValueError("a bug")) as client:
        answer = await client.get(path)
    assert (answer.status_code, "invalid `after`" in answer.text) == (500, False)
