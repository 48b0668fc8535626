"""Nothing lost, nothing twice, while real processes stop, vanish and return. Real PostgreSQL, Valkey, sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support.stacks import drained, rows, until

EARTHQUAKES = Path(__file__).parents[2] / "examples" / "earthquakes.ndjson"


async def test_all_real_earthquakes_arrive_though_a_listener_is_killed_while_they_are_sent(stack: Stack) -> None:
    lines = EARTHQUAKES.read_bytes().splitlines()

    async def in_portions() -> AsyncIterator[tuple[list[bytes], range]]:
        for n in range(0, len(lines), 100):
            if n == 500:
                await stack.kill("listener-a")
            yield lines[n : n + 100], range(n + 1, n + 101)

    async with Publisher(stack.publish_url) as publisher:
        assert await publisher.publish_json(in_portions()) == 1_707
    await drained(stack)
    assert await rows(stack, "select status, count(*) from oncecast.events group by 1") == [("stored", 1_707)]


async def test_a_rejected_event_is_dead_at_once_and_a_failing_one_after_its_attempts(stack: Stack) -> None:
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("rejected", id="r"), Event.new("fails", id="f"), Event.new("tick", id="t")]
        )

        async def ended() -> object:
            found = await rows(stack, "select id, status, attempts from oncecast.events order by id")
            return found if len(found) == 3 else None

        assert await until(ended) == [("f", "dead", 3), ("r", "dead", 1), ("t", "stored", 1)]
    assert await rows(stack, "select * from public.effects") == []
