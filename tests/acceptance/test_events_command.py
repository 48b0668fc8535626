"""`oncecast events` finds, shows and follows events that have ended."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from oncecast import Event, Publisher
from tests.acceptance.test_recovery import oncecast
from tests.support.interrupts import interrupts_count
from tests.support.stacks import StackOf, drained


async def test_ended_events_are_listed_and_shown(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        data = ("--data", str(stack.data))
        await publisher.publish_many([Event.new("order", {"n": n}, id=f"o-{n}", source="/shop") for n in range(3)])
        await publisher.publish(Event.new("tick", {"n": 7}, id="t-1", source="/clock"))
        await drained(stack)
        status, out, _ = await oncecast("events", *data, "--json", "--type", "order")
        assert status == 0
        assert sorted(json.loads(line)["event"]["id"] for line in out.splitlines()) == ["o-0", "o-1", "o-2"]
        status, out, _ = await oncecast("events", *data, "--no-json", "--limit", "1")
        assert (status, "Only the first 1 are shown" in out) == (0, True)
        status, out, _ = await oncecast("events", *data, "--no-json", "--source", "/nobody")
        assert (status, out) == (0, "No such event has ended.\n")
        status, out, _ = await oncecast("events", "show", "t-1", *data, "--json")
        found = json.loads(out)
        assert (status, found["event"]["data"], found["status"]) == (0, {"n": 7}, "stored")
        status, out, _ = await oncecast("events", "show", "t-1", *data, "--no-json")
        assert (status, "/clock" in out, '{"n":7}' in out) == (0, True, True)
        status, out, error = await oncecast("events", "show", "t-2", *data)
        assert (status, out, "no event 't-2' has ended" in error) == (1, "", True)
        status, _, error = await oncecast("events", "--retrying", "--type", "tick", *data)
        assert (status, "--retrying lists all events" in error) == (1, True)


async def test_new_events_are_followed_until_ctrl_c(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("tick", id="before"))
        await drained(stack)
        following = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oncecast", "events", "follow", "--data", str(stack.data), "--json"),
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=interrupts_count,
        )
        assert following.stdout is not None
        try:
            async with asyncio.timeout(30):
                reading = asyncio.create_task(following.stdout.readline())
                number = 0
                while not reading.done():  # it shows what ends after it has begun, which nothing else shows
                    number += 1
                    await publisher.publish(Event.new("tick", id=f"new-{number}"))
                    await asyncio.wait([reading], timeout=0.5)
                assert json.loads(reading.result())["event"]["id"].startswith("new-")
            following.send_signal(signal.SIGINT)
            async with asyncio.timeout(30):
                assert await following.wait() == 0
        finally:
            if following.returncode is None:
                following.kill()
                await following.wait()
