"""The producer over real sockets: what it takes, what it refuses and how, and what its subscribers see."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from oncecast import Event, Publisher
from oncecast.core.wire import Credit, Events, Resume, Welcome, decode_server_frame, encode
from oncecast.embedded.ports import free_port
from tests.support.stacks import until

V1 = [Subprotocol("oncecast.v1")]


class Producer:
    """A producer process with a journal in `folder`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"
        self.folder = folder
        self._environment = {**os.environ, **environment, "PORT": str(self.port), "INSTANCE_ID": "producer"}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "oncecast", "producer")
        with (self.folder / "output.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"{self.http}/readyz")).is_success
                except httpx.TransportError:
                    return False

            await until(ready, within_s=20)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


@asynccontextmanager
async def running(folder: Path, **environment: str) -> AsyncIterator[Producer]:
    producer = Producer(folder, **environment)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.end()
        assert "Traceback" not in (folder / "output.log").read_text()


@pytest.fixture
async def producer(tmp_path: Path) -> AsyncIterator[Producer]:
    async with running(tmp_path) as process:
        yield process


@pytest.fixture
async def client(producer: Producer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=producer.http) as http:
        yield http


async def post(client: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post("/events", content=content, headers={"content-type": "application/json", **headers})


async def next_text(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return msgspec.json.decode(await connection.recv())  # type: ignore[no-any-return]


# --- publishing over HTTP -------------------------------------------------------------------------------------


async def test_a_post_is_answered_202_with_ids_and_cursors_that_can_be_read_back(client: httpx.AsyncClient) -> None:
    answer = await post(
        client, [{"id": "a"}, {"id": 7}, {"specversion": "1.0", "id": "c", "source": "/s", "type": "t"}]
    )
    assert answer.status_code == 202
    events = answer.json()["events"]
    assert [(e["source"], e["id"]) for e in events] == [("/oncecast", "a"), ("/oncecast", "7"), ("/s", "c")]
    assert [e["cursor"].split(":")[1] for e in events] == ["1", "2", "3"]
    page = (await client.get("/events", params={"after": events[0]["cursor"], "limit": 1})).json()
    assert [e["id"] for e in page["events"]] == ["7"]
    assert page["next"] == events[1]["cursor"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"{", {}, 400, "not JSON"),
        (b'[{"id":"a"},7]', {}, 422, "event 2"),
        (b'{"id":"a"}\n{', {"content-type": "application/x-ndjson"}, 400, "line 2"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "send content-type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "compressed"),
        (b'{"x":"' + b"y" * 2_000 + b'"}', {}, 413, "an event may have"),
        (b"[" + b'{"x":1},' * 2_000 + b"{}]", {}, 413, "a request may have"),
    ],
)
async def test_what_is_refused_is_a_problem_that_names_the_place_and_accepts_nothing(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    async with (
        running(tmp_path, EVENT_MAX_BYTES="1000", REQUEST_MAX_BYTES="10000") as producer,
        httpx.AsyncClient(base_url=producer.http) as client,
    ):
        answer = await post(client, body, **headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert said in answer.json()["detail"]
        assert (await client.get("/health")).json()["journal"]["last"] == 0


async def test_a_body_without_a_length_is_bounded_while_it_is_read(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield b"[" + b" " * 1_000

    async with (
        running(tmp_path, REQUEST_MAX_BYTES="10000") as producer,
        httpx.AsyncClient(base_url=producer.http) as client,
    ):
        try:
            answer = await client.post("/events", content=endless(), headers={"content-type": "application/json"})
        except httpx.WriteError:
            return  # refused so early that the rest could not be sent
        assert answer.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/events", 405)])
async def test_what_is_not_there_is_a_problem_too(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("after", ["-1", "x", "e:", "e:-1", "e:" + "9" * 30, ":1", "é:1"])
async def test_a_cursor_that_is_none_is_refused(client: httpx.AsyncClient, after: str) -> None:
    assert (await client.get("/events", params={"after": after})).status_code == 400


async def test_a_cursor_of_another_journal_reads_from_the_beginning(client: httpx.AsyncClient) -> None:
    await post(client, {"id": "a"})
    page = (await client.get("/events", params={"after": "feedfeed:999"})).json()
    assert [e["id"] for e in page["events"]] == ["a"]


async def test_foreign_hosts_and_origins_are_refused_and_the_page_is_safe(client: httpx.AsyncClient) -> None:
    assert (await client.get("/", headers={"host": "evil.example"})).status_code == 421
    assert (await post(client, {}, origin="http://evil.example")).status_code == 403
    assert (await post(client, {}, origin=str(client.base_url).rstrip("/"))).status_code == 202
    page = await client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


async def test_health_readiness_and_metrics_answer(client: httpx.AsyncClient) -> None:
    await post(client, [{}, {}])
    assert (await client.get("/livez")).json() == (await client.get("/readyz")).json() == {"status": "ok"}
    metrics = (await client.get("/metrics")).text
    assert "oncecast_accepted_total 2.0" in metrics
    assert "oncecast_journal_last_offset 2.0" in metrics


# --- what was acknowledged is there ---------------------------------------------------------------------------


async def test_a_producer_killed_at_any_moment_has_every_acknowledged_event(tmp_path: Path) -> None:
    producer = Producer(tmp_path)
    await producer.start()
    acknowledged: dict[str, str] = {}

    async def publish(name: int) -> None:
        async with httpx.AsyncClient(base_url=producer.http) as client:
            for n in range(100_000):
                try:
                    answer = await post(client, [{"id": f"{name}-{n}-{i}"} for i in range(3)])
                except httpx.TransportError:
                    return
                acknowledged.update((e["id"], e["cursor"]) for e in answer.json()["events"])

    async def enough() -> bool:
        return len(acknowledged) > 300

    async with asyncio.TaskGroup() as group:
        for name in range(8):
            group.create_task(publish(name))
        await until(enough)
        await producer.end(signal.SIGKILL)
    await producer.start()
    events: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=producer.http) as client:
        health = (await client.get("/health")).json()["journal"]
        cursor = None
        while len(events) < health["last"]:
            page = (
                await client.get("/events", params={"limit": "1000"} | ({"after": cursor} if cursor else {}))
            ).json()
            events += page["events"]
            cursor = page["next"]
    offsets = {event["id"]: n for n, event in enumerate(events, 1)}
    assert len(offsets) == len(events) == health["last"]
    assert {e: int(c.split(":")[1]) for e, c in acknowledged.items()}.items() <= offsets.items()
    await producer.end()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit that stands for the disk is Linux's")
async def test_a_full_disk_is_refused_clearly_reads_go_on_and_it_recovers(tmp_path: Path) -> None:
    limit = "import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY));"
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(limit + "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n")
    body = [{"id": f"e{n}", "s": "x" * 1_000} for n in range(50)]
    async with (
        running(tmp_path, PYTHONPATH=str(tmp_path)) as producer,
        httpx.AsyncClient(base_url=producer.http, timeout=20) as client,
    ):
        statuses = [(await post(client, body)).status_code for _ in range(12)]
        assert statuses[0] == 202
        refused = next(status for status in statuses if status != 202)
        assert refused in (503, 507)
        last = (await client.get("/health")).json()["journal"]["last"]
        assert last >= 50 * statuses.count(202)
        assert len((await client.get("/events", params={"limit": 1000})).json()["events"]) == last
        resource.prlimit(producer.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        async def recovered() -> bool:
            return (await post(client, body)).status_code == 202

        await until(recovered, within_s=20)


# --- plain WebSocket clients ----------------------------------------------------------------------------------


async def test_any_client_publishes_and_receives_and_only_the_publisher_is_told(producer: Producer) -> None:
    async with connect(producer.ws) as one, connect(producer.ws) as other:
        await one.send('{"id":"a","type":"tick"}')
        said = [await next_text(one), await next_text(one)]
        accepted = next(e for e in said if e["type"] == "oncecast.accepted")
        assert accepted["data"]["events"][0]["id"] == "a"
        assert any(e["id"] == "a" for e in said)
        await one.send("[7]")
        refused = await next_text(one)
        assert (refused["type"], refused["data"]["status"]) == ("oncecast.refused", 422)
        await other.send('{"id":"b"}')
        assert [(await next_text(other))["id"]] == ["a"]
        assert (await next_text(one))["id"] == "b"


async def test_the_command_line_client_of_websockets_is_enough(producer: Producer) -> None:
    shell = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "websockets", producer.ws),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    async with httpx.AsyncClient(base_url=producer.http) as client:

        async def subscribed() -> bool:
            return bool((await client.get("/health")).json()["subscribers"])

        await until(subscribed)
    shell.stdin.write(b'{"id":"typed"}\n')
    async with asyncio.timeout(10):
        printed = b""
        while b"oncecast.accepted" not in printed or b'"id":"typed"' not in printed:
            printed += await shell.stdout.read(4_096)
    shell.terminate()
    await shell.communicate()


async def test_a_client_replays_from_the_earliest_or_after_a_cursor(producer: Producer) -> None:
    async with Publisher(producer.http) as publisher:
        cursors = [await publisher.publish(Event.new("tick", id=f"e{n}")) for n in range(5)]
    async with connect(f"{producer.ws}/?from=earliest") as connection:
        assert [(await next_text(connection))["id"] for _ in range(5)] == ["e0", "e1", "e2", "e3", "e4"]
    async with connect(f"{producer.ws}/?after={cursors[2]}") as connection:
        assert [(await next_text(connection))["id"] for _ in range(2)] == ["e3", "e4"]


async def test_what_clients_do_wrong_is_told_in_the_close(producer: Producer) -> None:
    async with connect(producer.ws) as connection:
        await connection.send(b"binary")
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003
    for query in ("?after=nonsense", "?from=yesterday"):
        with pytest.raises(InvalidStatus):
            await connect(f"{producer.ws}/{query}").__aenter__()
    with pytest.raises(InvalidStatus):
        await connect(producer.ws, origin=Origin("http://evil.example")).__aenter__()


async def test_a_reader_that_never_reads_delays_nobody(producer: Producer) -> None:
    _reader, stuck = await asyncio.open_connection("127.0.0.1", producer.port, limit=1)
    stuck.write(
        f"GET /?from=earliest HTTP/1.1\r\nHost: 127.0.0.1:{producer.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    events = [Event.new("tick", "x" * 10_000) for _ in range(1_000)]
    async with connect(producer.ws) as connection, Publisher(producer.http) as publisher:
        sending = asyncio.create_task(publisher.publish_many(events))
        received = {(await next_text(connection))["id"] for _ in events}
        await sending
    assert received == {event.id for event in events}
    stuck.close()


# --- listeners: oncecast.v1 ------------------------------------------------------------------------------------


async def greeted(connection: ClientConnection, **resume: Any) -> Welcome:
    welcome = decode_server_frame(await connection.recv(decode=False))
    assert isinstance(welcome, Welcome)
    await connection.send(encode(Resume(**{"instance": "l", "group": "g", "credit": 10**6, **resume})).decode())
    return welcome


async def frame(connection: ClientConnection) -> tuple[Events, int]:
    async with asyncio.timeout(10):
        text = await connection.recv(decode=False)
    decoded = decode_server_frame(text)
    assert isinstance(decoded, Events)
    return decoded, len(text)


async def test_catching_up_goes_over_into_live_without_gap_or_disorder(tmp_path: Path) -> None:
    async with running(tmp_path, WINDOW_BYTES="20000") as producer, Publisher(producer.http) as publisher:
        await publisher.publish_many([Event.new("tick", {"n": n}) for n in range(3_000)])
        more = asyncio.create_task(publisher.publish_many([Event.new("tick", {"n": n}) for n in range(3_000, 9_000)]))
        seen: list[int] = []
        async with connect(producer.ws, subprotocols=V1, max_size=None) as connection:
            await greeted(connection, credit=10**9)
            while len(seen) < 9_000:
                events, _ = await frame(connection)
                assert events.offset == len(seen) + 1
                seen += [msgspec.json.decode(e)["data"]["n"] for e in events.events]
        await more
    assert sorted(seen) == list(range(9_000))


async def test_without_credit_nothing_comes_and_credit_brings_more(producer: Producer) -> None:
    async with Publisher(producer.http, batch_events_max=1) as publisher:
        await publisher.publish_many([Event.new("tick", "x" * 5_000) for _ in range(20)])
    async with connect(producer.ws, subprotocols=V1, max_size=None) as connection:
        await greeted(connection, credit=1)
        first, first_bytes = await frame(connection)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.recv()
        await connection.send(encode(Credit(first_bytes)).decode())
        second, _ = await frame(connection)
        assert second.offset == first.offset + len(first.events)


@pytest.mark.parametrize(
    "said",
    [
        '{"verb":"credit","bytes":-1}',
        '{"verb":"credit","bytes":1000000000000000000}',
        '{"verb":"surprise"}',
        "garbage",
        "[" * 50_000,
        '{"verb":"resume","instance":"l","group":"g","credit":1}',
    ],
)
async def test_a_listener_that_does_not_keep_to_the_protocol_is_closed_with_a_reason(
    producer: Producer, said: str
) -> None:
    async with connect(producer.ws, subprotocols=V1) as connection:
        await greeted(connection)
        await connection.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason


@pytest.mark.parametrize(("after", "offset"), [("feedfeed:2", 1), (None, 1)])
async def test_a_cursor_that_is_unknown_reads_from_the_first(
    producer: Producer, after: str | None, offset: int
) -> None:
    async with Publisher(producer.http) as publisher:
        await publisher.publish_many([Event.new("tick") for _ in range(3)])
    async with connect(producer.ws, subprotocols=V1) as connection:
        await greeted(connection, after=after)
        assert (await frame(connection))[0].offset == offset
