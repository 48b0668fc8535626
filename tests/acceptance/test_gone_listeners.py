"""A listener that has gone stays listed until it returns or is dismissed; a group without listeners is a problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, until


async def health(stack: Stack) -> dict[str, Any]:
    async with httpx2.AsyncClient(timeout=5) as client:
        return dict((await client.get(f"{stack.publish_url}/health")).json())


def listed(stack: Stack, *expected: tuple[str, bool, str]) -> Callable[[], Awaitable[bool]]:
    """Whether the producer lists these listeners: name, whether it has gone, status."""

    async def is_listed() -> bool:
        found = await health(stack)
        listed = [(each["instance"], False, each["status"]) for each in found["listeners"]]
        listed += [(each["instance"], True, each["status"]) for each in found["gone"]]
        return sorted(listed) == sorted(expected)

    return is_listed


async def test_a_killed_listener_is_listed_as_gone_until_it_returns(stack_of: StackOf) -> None:
    async with stack_of() as stack:
        await until(listed(stack, ("listener-a", False, "ok"), ("listener-b", False, "ok")))
        await stack.kill("listener-b")
        await until(listed(stack, ("listener-a", False, "ok"), ("listener-b", True, "down")), within_s=3.0)
        found = await health(stack)
        assert (found["status"], found["parts"]["listeners"]["status"]) == ("degraded", "degraded")
        assert found["reason"].startswith("listeners: listener-b of the group oncecast is down")
        status, out, _ = await oncecast("status", "--producer", stack.publish_url, "--no-json")
        assert (status, "listener-b" in out) == (1, True)
        await stack.start("listener-b")
        await until(listed(stack, ("listener-a", False, "ok"), ("listener-b", False, "ok")))
        assert (await health(stack))["status"] == "ok"


async def test_a_stopped_listener_is_no_problem_and_one_that_has_gone_can_be_dismissed(stack_of: StackOf) -> None:
    async with stack_of() as stack, httpx2.AsyncClient(base_url=stack.publish_url, timeout=5) as client:
        await until(listed(stack, ("listener-a", False, "ok"), ("listener-b", False, "ok")))
        await stack.stop("listener-b")
        await until(listed(stack, ("listener-a", False, "ok"), ("listener-b", True, "draining")))
        assert (await health(stack))["status"] == "ok"
        for expected in (200, 404):
            answer = await client.delete("/api/listeners/oncecast/listener-b")
            assert answer.status_code == expected, answer.text
        assert await listed(stack, ("listener-a", False, "ok"))()


async def test_events_that_wait_for_a_group_without_listeners_degrade_the_producer(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:

        async def group_is_known() -> bool:
            return [each["name"] for each in (await health(stack))["groups"]] == ["oncecast"]

        await until(group_is_known)
        await stack.stop("listener-a")
        await publisher.publish(Event.new("tick"))

        async def is_reported() -> bool:
            found = await health(stack)
            return bool(found["parts"]["groups"]["status"] == "degraded")

        await until(is_reported, within_s=5.0)
        found = await health(stack)
        assert found["reason"] == "groups: the group oncecast has no listener, and 1 event waits for it"
        assert "oncecast groups forget oncecast" in found["remedy"]
        (group,) = found["groups"]
        assert (group["behind"], group["connected"]) == (1, 0)
