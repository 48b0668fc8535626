"""What a listener holds is bounded by WINDOW_BYTES, whatever stands behind it."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.support.stacks import StackOf, drained, rows

MEMORY_MAX_MIB = 250
REQUEST_EVENTS_BYTES = 4_000_000


def event(n: int, size_bytes: int) -> bytes:
    begin = b'{"specversion":"1.0","id":"%x","source":"/s","type":"t"' % n
    room = size_bytes - len(begin) - len(b',"data":""}')
    return begin + (b',"data":"' + b"x" * room + b'"' if room > 0 else b"") + b"}"


def peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc (Linux)")
@pytest.mark.parametrize(("count", "size_bytes"), [(300_000, 53), (5_000, 20_000), (100, 1_000_000)])
@pytest.mark.timeout(600)
async def test_a_listener_that_catches_up_stays_within_its_memory_whatever_the_size_of_events(
    stack_of: StackOf, count: int, size_bytes: int
) -> None:
    async with stack_of(listeners=1) as stack:
        await stack.stop("listener-a")
        at_a_time = max(1, REQUEST_EVENTS_BYTES // (size_bytes + 1))
        async with httpx2.AsyncClient(timeout=120) as client:
            for first in range(0, count, min(at_a_time, 10_000)):
                lines = [event(n, size_bytes) for n in range(first, min(first + at_a_time, first + 10_000, count))]
                answer = await client.post(
                    f"{stack.publish_url}/events",
                    content=b"\n".join(lines),
                    headers={"content-type": "application/x-ndjson"},
                )
                assert answer.status_code == 202, answer.text
        await stack.start("listener-a")
        await drained(stack, within_s=400)
        pid = stack.processes["listener-a"].pid
        assert pid is not None
        assert peak_mib(pid) <= MEMORY_MAX_MIB
        assert await rows(stack, "select count(*) from oncecast.events") == [(count,)]


async def test_the_largest_event_that_a_producer_may_accept_reaches_a_listener_with_a_small_window(
    stack_of: StackOf,
) -> None:
    largest = 16 * 1024 * 1024
    limits = {"EVENT_MAX_BYTES": str(largest), "WINDOW_BYTES": "100KiB", "FRAME_MAX_BYTES": "10KiB"}
    async with stack_of(listeners=1, environment=limits) as stack, httpx2.AsyncClient(timeout=120) as client:
        head = {"content-type": "application/cloudevents+json"}
        for content in (event(1, largest), event(2, 53)):
            answer = await client.post(f"{stack.publish_url}/events", content=content, headers=head)
            assert answer.status_code == 202, answer.text
        answer = await client.post(f"{stack.publish_url}/events", content=event(3, largest + 1), headers=head)
        assert answer.status_code == 413
        await drained(stack)
        assert await rows(stack, "select status from oncecast.events") == [("stored",), ("stored",)]
        health = (await client.get(f"{stack.listener_urls['listener-a']}/health")).json()
        assert health["producers"][0]["connected"]
