"""A handler blocks the event loop of its listener: the listener lives, and no other takes over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psycopg
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import blocking
from tests.support.stacks import StackOf, rows, until

APP = {"app": "tests.support.blocking:app", "app_dir": Path(__file__).parents[2]}
LONGER_THAN_A_DEAD_ONE_IS_WAITED_FOR_S = 7.0
"""Other listeners take over after 4 to 6 s."""


async def run(stack: Stack, events: list[Event], within_s: float) -> dict[str, tuple[str, int]]:
    """Send `events` and wait until all have ended; return the status and attempts of each."""
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute(blocking.TABLES)
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(events)

    async def all_have_ended() -> bool:
        return await rows(stack, "select count(*) from oncecast.events") == [(len(events),)]

    await until(all_have_ended, within_s)
    found = await rows(stack, "select id, status, attempts from oncecast.events")
    return {id_: (status, attempts) for id_, status, attempts in found}


def logs(stack: Stack) -> str:
    return "".join((stack.folder(name) / "output.log").read_text() for name in stack.listener_urls)


@pytest.mark.parametrize("listeners", [2, 5])
@pytest.mark.parametrize("how", ["sleep", "interpreter"])
async def test_an_event_whose_handler_blocks_is_begun_once_and_stored_when_it_returns_in_time(
    stack_of: StackOf, tmp_path: Path, how: str, listeners: int
) -> None:
    seconds = LONGER_THAN_A_DEAD_ONE_IS_WAITED_FOR_S
    blocks = Event.new("blocks", {"how": how, "seconds": seconds}, id="b")
    others = [Event.new("counted", {"seconds": 0.0}, id=f"c{n}") for n in range(50)]
    begun = tmp_path / "begun"
    async with stack_of(**APP, listeners=listeners, environment={"BEGUN": str(begun)}) as stack:
        ended = await run(stack, [blocks, *others], within_s=60)
        assert ended == dict.fromkeys(ended, ("stored", 1))
        assert Counter(begun.read_text().split()) == Counter(list(ended))
        assert await rows(stack, "select min(count), max(count) from public.effects") == [(1, 1)]
        log = logs(stack)
        assert "TakenOver" not in log
        (reported,) = [line for line in log.splitlines() if "blocked the event loop" in line]
        assert "handler be_in_the_way of event b" in reported
        assert "tests/support/blocking.py:" in reported
        assert 'block(event.data["how"], event.data["seconds"])' in log, "its stack"


@pytest.mark.parametrize("how", ["sleep", "interpreter"])
async def test_a_handler_that_blocks_beyond_its_time_fails_by_its_time_out_and_pauses_nothing(
    stack_of: StackOf, tmp_path: Path, how: str
) -> None:
    """PostgreSQL ends its session and those of concurrent handlers, whose events spend no attempt."""
    blocks = Event.new("blocks", {"how": how, "seconds": LONGER_THAN_A_DEAD_ONE_IS_WAITED_FOR_S}, id="b")
    others = [Event.new("counted", {"seconds": 0.3}, id=f"c{n}") for n in range(30)]
    begun = tmp_path / "begun"
    limits = {
        "BEGUN": str(begun),
        "HANDLER_TIMEOUT": "1s",
        "EVENT_ATTEMPTS": "2",
        "EVENT_RETRY_DELAY": "100ms",
        "DB_RETRY_DELAY": "100ms",
    }
    async with stack_of(**APP, environment=limits) as stack:
        ended = await run(stack, [*others[:15], blocks, *others[15:]], within_s=90)
        assert ended.pop("b") == ("dead", 2)
        assert {status for status, _ in ended.values()} == {"stored"}
        assert Counter(begun.read_text().split())["b"] == 2
        reported = "TimeoutError: the handler took longer than HANDLER_TIMEOUT, 1 s"
        assert await rows(stack, "select id, error from oncecast.dead_letters") == [("b", reported)]
        log = logs(stack)
        assert "PostgreSQL unavailable" not in log
        assert "TakenOver" not in log
