"""What was acknowledged is there, and there once; see test_acknowledged.py and test_disk.py, too.

The numbers are those of the list of faults in docs/promise.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from oncecast import Event, Publisher
from oncecast.chaos.system import running
from oncecast.embedded import Stack
from tests.support.judge import acknowledged, judge, publishing
from tests.support.stacks import StackOf, drained, rows


async def test_the_producer_is_killed_and_started_while_events_are_sent(stack: Stack) -> None:
    """26, 30."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await stack.kill("producer")
        await stack.start("producer")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_when_the_acknowledgement_is_lost_the_publishers_retry_has_one_effect(tmp_path: Path) -> None:
    """30. It is on disk, nobody was told, and the same id is sent again."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        link = system.links["publishers>producer"]
        link.hurt("drop", "both")
        async with Publisher(system.publish_url("producer")) as publisher, asyncio.TaskGroup() as group:
            publishing = group.create_task(publisher.publish(Event.new("tick", id="once")))

            while not await rows(system.stack, "select 1 from chaos.events where id = 'once'"):
                await asyncio.sleep(0.05)
            assert not publishing.done()
            link.heal()
        await drained(system.stack)
        assert await rows(system.stack, "select id, status from chaos.events") == [("once", "stored")]


async def test_the_same_identity_again_is_a_duplicate_or_a_conflict_that_is_kept(stack_of: StackOf) -> None:
    """35. Twice in one request, again later, through another producer, and with other content."""
    async with stack_of(producers=2) as stack:
        same, other = Event.new("tick", {"n": 1}, id="x"), Event.new("tick", {"n": 2}, id="x")
        for url in stack.publish_urls:
            async with Publisher(url) as publisher:
                await publisher.publish_many([same, same])
                await publisher.publish(same)
            await drained(stack)
        async with Publisher(stack.publish_urls[1]) as publisher:
            await publisher.publish(other)
        await drained(stack)
        assert await rows(stack, "select id, data from oncecast.events") == [("x", {"n": 1})]
        ((raw,),) = await rows(stack, "select raw from oncecast.conflicts")
        assert Event.from_json(raw).data == {"n": 2}
