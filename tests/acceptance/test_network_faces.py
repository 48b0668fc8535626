"""The network faces give no secret away, let nobody speak for a producer, and write no line that is none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.producers import ProducerProcess, closed, hand_shake, post, producer_process
from tests.support.stacks import StackOf, until

TOKENS = {
    "PUBLISH_TOKEN": "publishing",
    "SUBSCRIBE_TOKEN": "subscribing",
    "ADMIN_TOKEN": "operating",
    "LISTENER_TOKENS": "listening",
}
OPERATOR = {"authorization": f"Bearer {TOKENS['ADMIN_TOKEN']}"}
INVALID = b"\xff\xfe"


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[ProducerProcess]:
    with producer_process(tmp_path, LOG_FORMAT="json", LOG_LEVEL="debug") as process:
        yield process


def frame(first: int, data: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    return bytes([first, 0x80 | len(data)]) + bytes(4) + data


@pytest.mark.parametrize(
    "frames",
    [
        frame(0x81, INVALID),
        frame(0x01, b"\xc3") + frame(0x80, b"("),
        frame(0x82, INVALID),
        frame(0x88, b"\x03"),
        frame(0x88, b"\x00\x01x"),
        frame(0x88, b"\x03\xe8" + INVALID),
        frame(0x83, b"x"),
        frame(0x80, b"x"),
        b"\x81\x02ab",
        b"\xff" * 60,
        frame(0x81, b"cut off")[:-3],
    ],
)
@pytest.mark.parametrize("protocol", [b"", b"Sec-WebSocket-Protocol: oncecast.v1\r\n"])
async def test_no_frame_of_a_client_leaves_a_traceback_or_a_line_that_is_no_json(
    producer: ProducerProcess, frames: bytes, protocol: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
    writer.write(hand_shake(producer, "/")[:-2] + protocol + b"\r\n")
    async with asyncio.timeout(120):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frames)
        await writer.drain()
        writer.write_eof()
        await reader.read()
    writer.close()
    producer.end()
    for line in producer.log.read_text().splitlines():
        assert "traceback" not in json.loads(line), line


async def test_a_text_that_is_no_utf_8_is_closed_with_1007_and_counted(producer: ProducerProcess) -> None:
    async with connect(producer.ws) as connection, producer.client() as client:
        await connection.send(INVALID, text=True)
        assert await closed(connection) == (1007, "a text frame is not UTF-8: invalid start byte")
        assert "oncecast_connections_refused_total 1.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("event", "query"),
    [
        ({"specversion": "1.0", "id": "1", "source": "/oncecast/producer", "type": "t"}, ""),
        ({"specversion": "1.0", "id": "1", "source": "/oncecast/producer/a", "type": "t"}, ""),
        ({"specversion": "1.0", "id": "1", "source": "/s", "type": "oncecast.accepted"}, ""),
        ({"id": "1", "type": "oncecast.refused"}, ""),
        ({"id": "1"}, "?source=/oncecast/producer"),
        ({"id": "1"}, "?type=oncecast.accepted"),
    ],
)
async def test_only_a_producer_may_publish_under_the_reserved_names(
    producer: ProducerProcess, event: dict[str, str], query: str
) -> None:
    async with producer.client() as client:
        answer = await client.post(f"/events{query}", json=event)
        assert (answer.status_code, "reserved" in answer.json()["detail"]) == (422, True)
        assert (await post(client, {"id": "2", "type": "oncecast.failing"})).status_code == 202


async def test_refused_access_is_counted_by_its_reason(tmp_path: Path) -> None:
    with producer_process(tmp_path, **TOKENS) as producer:
        async with producer.client() as client:
            assert (await client.get("/events")).status_code == 401
            assert (await client.get("/", headers={"host": "evil.example"})).status_code == 421
            assert (await client.post("/events", headers={"origin": "http://evil.example"})).status_code == 403
            with pytest.raises(InvalidStatus):
                await connect(producer.ws).__aenter__()
            metrics = (await client.get("/metrics")).text
        for reason, count in (("unauthorized", 2), ("unknown_host", 1), ("forbidden_origin", 1)):
            assert f'oncecast_access_refused_total{{reason="{reason}"}} {count}.0' in metrics


async def test_what_operators_do_is_logged_with_how_many_and_from_where(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, httpx2.AsyncClient(trust_env=False) as client:
        listener = stack.listener_urls["listener-a"]
        assert (await client.post(f"{listener}/api/prune", json={"older_than_s": 60})).is_success
        log = stack.folder("listener-a") / "output.log"

        async def is_logged() -> bool:
            return "asked listener-a to prune rows older than 60 s: 0 done" in log.read_text()

        await until(is_logged)
        assert "Operator at 127.0.0.1" in log.read_text()


async def test_a_password_in_ws_url_is_in_no_face_and_no_line(stack_of: StackOf) -> None:
    async def way(name: str) -> dict[str, str]:
        return {"WS_URL": "ws://user:hunter2@127.0.0.1:9"} if name.startswith("listener") else {}

    async with stack_of(listeners=1, detour=way, environment={"LOG_LEVEL": "debug", "LOG_FORMAT": "json"}) as stack:
        log = stack.folder("listener-a") / "output.log"

        async def has_tried() -> bool:
            return "Disconnected" in log.read_text()

        await until(has_tried)
        async with httpx2.AsyncClient(trust_env=False) as client:
            faces = [
                (await client.get(stack.listener_urls["listener-a"] + path)).text
                for path in ("/health", "/readyz", "/metrics", "/openapi.json")
            ]
        assert "ws://127.0.0.1:9" in faces[0]
        assert not any("hunter2" in text for text in (*faces, log.read_text()))


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -m oncecast {command}'],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_closed_standard_input_is_one_line(tmp_path: Path) -> None:
    done = shell("send - --to http://127.0.0.1:9 <&-", tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["oncecast: standard input is closed: give the name of a file, or pipe events into the command"],
    )


@pytest.mark.parametrize("command", ["status --json >&-", "status >&-", "--version >&- 2>&-", "journal check x >&-"])
def test_a_closed_output_leads_nowhere_and_leaves_no_traceback(tmp_path: Path, command: str) -> None:
    done = shell(command, tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2)


def test_an_invalid_file_of_events_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe\n")
    for name in (".", "latin", "missing"):
        done = shell(f"send {name} --to http://127.0.0.1:9 --deadline 1s", tmp_path)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith("oncecast: ")) == (1, True)
