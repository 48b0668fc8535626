"""Acknowledged events stay, whatever happens to the producer or its disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from oncecast.core.wire import SUBPROTOCOL, Resume, Welcome, decode_server_frame, encode
from oncecast.producer.intake import IntakeLimits
from tests.support.producers import (
    ProducerProcess,
    closed,
    last_offset,
    next_event,
    post,
    producer_here,
    producer_process,
    stuck_reader,
)
from tests.support.stacks import until

KILLS = 3
V1 = [Subprotocol(SUBPROTOCOL)]


async def greeted(connection: ClientConnection) -> Welcome:
    """Resume a connection with credit for everything."""
    welcome = decode_server_frame(await connection.recv(decode=False))
    assert isinstance(welcome, Welcome)
    await connection.send(encode(Resume(instance="l", group="g", credit=10**9)).decode())
    return welcome


async def all_events(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Return the whole journal, page by page."""
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 1_000}
    while page := (await client.get("/events", params=query)).json():
        events += page["events"]
        query["after"] = page["next"]
        if not page["events"]:
            break
    return events


async def test_a_producer_killed_at_any_moment_has_every_acknowledged_event_at_its_cursor(tmp_path: Path) -> None:
    producer = ProducerProcess(tmp_path)
    producer.start()
    acknowledged: dict[str, str] = {}

    async def publish(name: str) -> None:
        async with producer.client() as client:
            for n in range(100_000):
                try:
                    answer = await post(client, [{"id": f"{name}-{n}-{i}"} for i in range(3)])
                except httpx2.TransportError:
                    return
                acknowledged.update((e["id"], e["cursor"]) for e in answer.json()["events"])

    for life in range(KILLS):
        wanted = len(acknowledged) + 300

        async def enough(wanted: int = wanted) -> bool:
            return len(acknowledged) >= wanted

        async with asyncio.TaskGroup() as group:
            for name in range(8):
                group.create_task(publish(f"{life}-{name}"))
            await until(enough)
            producer.end(signal.SIGKILL)
        producer.start()
    async with producer.client() as client:
        events = await all_events(client)
        assert len(events) == await last_offset(client)
    offsets = {event["id"]: offset for offset, event in enumerate(events, 1)}
    assert len(offsets) == len(events)
    assert {id: int(cursor.split(":")[1]) for id, cursor in acknowledged.items()}.items() <= offsets.items()
    assert len({cursor.split(":")[0] for cursor in acknowledged.values()}) == KILLS
    assert producer.end() == 0


async def test_a_stopping_producer_answers_requests_in_progress(tmp_path: Path) -> None:
    producer = ProducerProcess(tmp_path)
    producer.start()
    answers: list[httpx2.Response] = []

    async def publish(client: httpx2.AsyncClient) -> None:
        try:
            while True:
                answers.append(await post(client, {"n": 1}))
        except httpx2.TransportError:
            return

    async def enough() -> bool:
        return len(answers) >= 100

    async with (
        producer.client() as client,
        connect(producer.ws, max_queue=None) as subscriber,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(8):
            group.create_task(publish(client))
        await until(enough)
        assert await asyncio.to_thread(producer.end) == 0
        assert (await next_event(subscriber))["type"] == "event"
    producer.start()
    async with producer.client() as client:
        assert await last_offset(client) >= len(answers)
    assert {answer.status_code for answer in answers} == {202}
    assert producer.end() == 0
    assert "Traceback" not in producer.log.read_text()


async def test_a_reader_that_never_reads_does_not_delay_the_stop(tmp_path: Path) -> None:
    with producer_process(tmp_path) as producer:
        async with producer.client() as client:
            for _ in range(20):
                await post(client, [{"x": "x" * 10_000}] * 50)
            async with stuck_reader(producer):

                async def joined() -> bool:
                    return bool((await client.get("/health")).json()["subscribers"] == 1)

                await until(joined)
                async with asyncio.timeout(8):
                    assert await asyncio.to_thread(producer.end) == 0


async def test_a_body_that_does_not_come_is_ended_by_a_deadline(tmp_path: Path) -> None:
    async with producer_here(tmp_path, intake=IntakeLimits(body_grace_s=0.1)) as producer:
        reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
        writer.write(b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{")
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()
        await writer.wait_closed()


# --- the disk -------------------------------------------------------------------------------------------------

BATCH = [{"s": "x" * 1_000} for _ in range(50)]


async def fill(client: httpx2.AsyncClient) -> tuple[int, httpx2.Response]:
    """Publish until the producer refuses; return the number of acknowledged events and the refusal."""
    accepted = 0
    for _ in range(200):
        answer = await post(client, BATCH)
        if answer.status_code != 202:
            return accepted, answer
        accepted += len(BATCH)
    raise AssertionError("the disk never filled")


async def refused_clearly_while_reads_go_on(producer: ProducerProcess, client: httpx2.AsyncClient) -> int:
    """Fill the disk; return the offset of the last accepted event."""
    async with connect(producer.ws, max_queue=None) as subscriber:
        accepted, refusal = await fill(client)
        assert refusal.status_code in (503, 507)
        assert refusal.headers["content-type"] == "application/problem+json"
        assert int(refusal.headers["retry-after"]) > 0
        assert "nothing was ac" in refusal.json()["detail"]
        last = await last_offset(client)
        assert last >= accepted
        assert len(await all_events(client)) == last
        for _ in range(accepted):
            await next_event(subscriber)
    async with connect(f"{producer.ws}/?from=earliest", max_queue=None) as late:
        assert (await next_event(late))["data"] == BATCH[0]
    return last


async def recovers(producer: ProducerProcess, client: httpx2.AsyncClient, last: int) -> None:
    """Check that publishing works again, without a gap, also after a restart."""

    async def accepted() -> bool:
        return (await post(client, {"id": "afterwards"})).status_code == 202

    await until(accepted, within_s=20)
    events = await all_events(client)
    assert len(events) == await last_offset(client) > last
    assert events[-1]["id"] == "afterwards"
    producer.end()
    producer.start()
    assert await all_events(client) == events


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit that stands for the disk is Linux's")
async def test_a_journal_that_may_not_grow_is_refused_clearly_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
    )
    with producer_process(tmp_path, PYTHONPATH=str(tmp_path)) as producer:
        async with producer.client() as client:
            last = await refused_clearly_while_reads_go_on(producer, client)
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(producer.pid, resource.RLIMIT_FSIZE, unlimited)
            (tmp_path / "sitecustomize.py").unlink()
            await recovers(producer, client, last)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit that stands for the disk is Linux's")
async def test_a_connected_listener_hears_of_the_epoch_that_a_recovered_journal_draws(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
    )
    with producer_process(tmp_path, PYTHONPATH=str(tmp_path)) as producer:
        async with producer.client() as client, connect(producer.ws, subprotocols=V1, max_size=None) as listener:
            before = await greeted(listener)
            last = await refused_clearly_while_reads_go_on(producer, client)
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(producer.pid, resource.RLIMIT_FSIZE, unlimited)
            (tmp_path / "sitecustomize.py").unlink()
            await recovers(producer, client, last)
            assert (await closed(listener))[0] == 1012
        async with connect(producer.ws, subprotocols=V1, max_size=None) as listener:
            after = await greeted(listener)
    assert after.epochs[: len(before.epochs)] == before.epochs
    assert len(after.epochs) > len(before.epochs)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 3 MiB at `folder`."""
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder))
    if os.geteuid() != 0 or subprocess.run(("mount", *options), capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


async def test_a_full_disk_is_refused_clearly_and_recovers_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2_000_000))
        with producer_process(tmp_path, JOURNAL_PATH=str(disk / "journal.db")) as producer:
            async with producer.client() as client:
                last = await refused_clearly_while_reads_go_on(producer, client)
                ballast.unlink()
                await recovers(producer, client, last)
