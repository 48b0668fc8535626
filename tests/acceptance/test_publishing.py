"""Publishing as users do it, to a producer that is killed, full, or guarded meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oncecast import Event, NotAcknowledged, Publisher, PublishRefused, SyncPublisher
from tests.support.producers import Address, producer_process

TOKEN = "publish-token-of-this-test"


async def ids_of(producer: Address) -> Counter[str]:
    """How often each id stands in the journal, in the order in which they first do."""
    found: Counter[str] = Counter()
    after: str | None = None
    async with producer.client() as client:
        while True:
            query = {"limit": "1000", **({"after": after} if after else {})}
            page = (await client.get("/events", params=query)).json()
            if not page["events"]:
                return found
            found.update(event["id"] for event in page["events"])
            after = page["next"]


@pytest.mark.parametrize(
    ("how", "in_order"), [(signal.SIGKILL, True), (signal.SIGKILL, False), (signal.SIGTERM, True)]
)
async def test_a_producer_that_is_restarted_midway_gets_every_event_under_its_own_id_and_in_order_if_asked(
    tmp_path: Path, how: signal.Signals, in_order: bool
) -> None:
    sent = 0

    async def events() -> AsyncIterator[Event]:
        nonlocal sent
        for sent in range(1, 20_001):
            yield Event.new("tick", {"n": sent}, id=f"many-{sent}")

    with producer_process(tmp_path) as producer:
        publishing = Publisher(producer.http, batch_events_max=1_000)  # several requests between restarts
        async with publishing as publisher, asyncio.TaskGroup() as group:
            many = group.create_task(publisher.publish_many(events(), in_order=in_order))
            ones = [group.create_task(publisher.publish(Event.new("one", id=f"one-{n}"))) for n in range(500)]
            for _ in range(3):
                before = sent
                while sent < before + 2_000:
                    await asyncio.sleep(0)
                await asyncio.to_thread(producer.end, how)
                await asyncio.to_thread(producer.start)
            assert await many == 20_000
            cursors = {await one for one in ones}
        assert len(cursors) == 500
        found = await ids_of(producer)
    assert set(found) == {f"many-{n}" for n in range(1, 20_001)} | {f"one-{n}" for n in range(500)}
    if in_order:
        assert [id_ for id_ in found if id_.startswith("many")] == [f"many-{n}" for n in range(1, 20_001)]


async def test_a_full_producer_is_waited_for_as_long_as_it_asks(tmp_path: Path) -> None:
    said: list[str] = []
    with producer_process(tmp_path, JOURNAL_MAX_BYTES="100KiB") as producer:
        async with Publisher(producer.http, deadline_s=1.0, batch_events_max=10) as hasty:
            with pytest.raises(NotAcknowledged, match="kept for the first group to join") as refused:
                await hasty.publish_many({"text": "x" * 1000} for _ in range(1_000))
        async with Publisher(producer.http, on_trouble=said.append) as patient:
            publishing = asyncio.create_task(patient.publish({"id": "patient"}))
            while not said:
                await asyncio.sleep(0.01)
            async with producer.client() as client:
                (await client.delete("/api/groups/first-to-join")).raise_for_status()
            await publishing
        found = await ids_of(producer)
    assert found["patient"] == 1
    assert refused.value.accepted


def test_a_refused_token_names_the_producer_and_the_setting(tmp_path: Path) -> None:
    with producer_process(tmp_path, PUBLISH_TOKEN=TOKEN) as producer:
        with (
            SyncPublisher(producer.http, token="another-token") as publisher,
            pytest.raises(PublishRefused) as refused,
        ):
            publisher.publish_many([Event.new("tick")])
        with SyncPublisher(producer.http, token=TOKEN) as publisher:
            assert publisher.publish(Event.new("tick")).offset == 1
    assert str(refused.value).startswith(f"refused: {producer.http}: this request needs the publish token")
    assert "another-token" not in str(refused.value)
