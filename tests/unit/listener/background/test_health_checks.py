"""What a listener finds of its parts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.telemetry import Disconnected
from oncecast.listener.background.health_checks import Troubles, board_of


def test_the_reason_of_a_lost_producer_is_shown_where_its_url_has_credentials_too() -> None:
    feed: Any = SimpleNamespace(
        url="ws://reader:secret@shop:8080", shown_url="ws://shop:8080", connected=False, track=None
    )
    well: Any = SimpleNamespace(fault=None, blocked=None, reason=None, allowed=asyncio.Event())
    well.allowed.set()
    troubles = Troubles()
    board = board_of(
        SYSTEM_CLOCK,
        standby=well,
        draining=asyncio.Event(),
        database=well,
        redis=well,
        feeds=[feed],
        emissions=well,
        forwarder=None,
        troubles=troubles,
    )
    assert board.check().reason == "producers: 1 of 1 not connected: it is connecting"
    troubles.record(Disconnected(feed.shown_url, "HTTP 401"))
    assert board.check().reason == "producers: 1 of 1 not connected: HTTP 401"
