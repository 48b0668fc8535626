"""The producer over HTTP: what it takes, what it refuses and how, and what can be read back. A real process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from oncecast.client.emissions import ProducersPublisher
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import EmissionRefused
from tests.support.producers import ProducerProcess, last_offset, post, producer_process

EVENT_MAX_BYTES = 100_000
REQUEST_MAX_BYTES = 300_000
STRUCTURED = {"specversion": "1.0", "id": "s", "source": "/s", "type": "t", "data": {"n": 1.50}}


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProducerProcess]:
    folder = tmp_path_factory.mktemp("producer")
    limits = {"EVENT_MAX_BYTES": str(EVENT_MAX_BYTES), "REQUEST_MAX_BYTES": str(REQUEST_MAX_BYTES)}
    with producer_process(folder, **limits) as process:
        yield process


@pytest.fixture
async def client(producer: ProducerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with producer.client() as http:
        yield http


@pytest.fixture
async def begin(client: httpx2.AsyncClient) -> int:
    """The newest offset when the test begins."""
    return await last_offset(client)


async def cursor_at(client: httpx2.AsyncClient, offset: int) -> str:
    return f"{(await client.get('/health')).json()['journal']['epoch']}:{offset}"


# --- publishing -----------------------------------------------------------------------------------------------


async def test_a_post_is_answered_202_with_ids_and_cursors_that_can_be_read_back(
    client: httpx2.AsyncClient, begin: int
) -> None:
    answer = await post(client, [{"id": "a"}, {"id": 7}, {**STRUCTURED, "id": "c"}])
    assert (answer.status_code, answer.json()["accepted"]) == (202, 3)
    events = answer.json()["events"]
    assert [(e["source"], e["id"]) for e in events] == [("/oncecast", "a"), ("/oncecast", "7"), ("/s", "c")]
    assert [int(e["cursor"].split(":")[1]) for e in events] == [begin + 1, begin + 2, begin + 3]
    page = (await client.get("/events", params={"after": events[0]["cursor"], "limit": 1})).json()
    assert [e["id"] for e in page["events"]] == ["7"]
    assert page["next"] == events[1]["cursor"]


@pytest.mark.parametrize("prefer", ["return=minimal", "respond-async, Return=minimal"])
async def test_a_minimal_answer_has_only_the_number(client: httpx2.AsyncClient, begin: int, prefer: str) -> None:
    answer = await client.post("/events", json=[{"id": "m1"}, {"id": "m2"}], headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    assert answer.headers["Preference-Applied"] == "return=minimal"
    assert await last_offset(client) == begin + 2


@pytest.mark.parametrize(
    ("body", "content_type", "ids"),
    [
        ({"id": "bare"}, "application/json", ["bare"]),
        ({"id": "bare"}, "", ["bare"]),
        ({"id": "bare"}, "Application/JSON; Charset=UTF-8", ["bare"]),
        (STRUCTURED, "application/json", ["s"]),
        (STRUCTURED, "application/cloudevents+json", ["s"]),
        ([STRUCTURED, {**STRUCTURED, "id": "t"}], "application/cloudevents-batch+json", ["s", "t"]),
        ([{"id": 1}, STRUCTURED], "application/json", ["1", "s"]),
        (b'{"id":"x"}\n\n{"id":"y"}\r\n', "application/x-ndjson", ["x", "y"]),
    ],
)
async def test_every_kind_of_body_is_taken(
    client: httpx2.AsyncClient, body: Any, content_type: str, ids: list[str]
) -> None:
    answer = await post(client, body, **{"content-type": content_type})
    assert answer.status_code == 202, answer.text
    assert [event["id"] for event in answer.json()["events"]] == ids


async def test_the_query_sets_attributes_of_bare_events_and_a_key_makes_their_ids_stable(
    client: httpx2.AsyncClient, begin: int
) -> None:
    ids = []
    for _ in range(2):
        url = "/events?type=push&source=/git%C3%BC&subject=main"
        answer = await client.post(url, json=[{"a": 1}], headers={"idempotency-key": "k"})
        ids.append(answer.json()["events"][0]["id"])
    assert ids[0] == ids[1]
    page = await client.get("/events", params={"after": await cursor_at(client, begin)})
    event = page.json()["events"][0]
    assert (event["type"], event["source"], event["subject"]) == ("push", "/gitü", "main")


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {}, 400, "not JSON"),
        (b'{"id":"a"', {}, 400, "not JSON"),
        (b'[{"id":"a"},7]', {}, 422, "event 2"),
        (b'{"id":"a"}\n{', {"content-type": "application/x-ndjson"}, 400, "line 2"),
        (b'[{"id":"a"},{"id":""}]', {}, 422, 'event 2: "id" is empty'),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "send content-type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "compressed"),
        (b"{}", {"content-type": "Application/CloudEvents+JSON"}, 422, "specversion"),
        (b"{}", {"idempotency-key": ""}, 422, "idempotency key"),
        (b'{"x":"' + b"y" * EVENT_MAX_BYTES + b'"}', {}, 413, "an event may have"),
        (b"[" + b"{}," * (REQUEST_MAX_BYTES // 3) + b"{}]", {}, 413, "a request may have"),
        (b"[" * 100_000, {}, 422, "nested too deeply"),
        (b'{"id":"a","x":' + b"9" * 90_000 + b"}", {}, 422, "range"),
    ],
)
async def test_what_is_refused_is_a_problem_that_names_the_place_and_accepts_nothing(
    client: httpx2.AsyncClient, begin: int, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = await post(client, body, **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]
    assert await last_offset(client) == begin
    assert (await post(client, {"id": "afterwards"})).status_code == 202  # over the same connection


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(EVENT_MAX_BYTES, "an event may have"), (REQUEST_MAX_BYTES, "a request may have")],
)
async def test_a_producer_refuses_an_emitted_event_that_is_too_large_for_it(
    producer: ProducerProcess, client: httpx2.AsyncClient, begin: int, size_bytes: int, said: str
) -> None:
    emitted = [msgspec.json.encode({**STRUCTURED, "id": id_}) for id_ in ("before", "large")]
    emitted[1] = emitted[1].replace(b"{", b'{"pad":"%s",' % (b"x" * size_bytes), 1)
    publisher = ProducersPublisher([producer.http], SYSTEM_CLOCK)
    try:
        with pytest.raises(EmissionRefused, match=said) as refused:
            await publisher.publish(emitted)
    finally:
        await publisher.close()
    assert refused.value.index == 1
    assert await last_offset(client) == begin + (size_bytes == REQUEST_MAX_BYTES)


async def test_refusals_are_counted_and_write_no_line_of_their_own(
    producer: ProducerProcess, client: httpx2.AsyncClient
) -> None:
    async def refused() -> float:
        lines = (await client.get("/metrics")).text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("oncecast_refused_total{"))

    before = await refused()
    name = "evil\n2026 forged\x1b[2J"
    assert (await post(client, {**STRUCTURED, name: 1})).status_code == 422
    assert (await post(client, b"{}", **{"content-type": "a/b\\nforged"})).status_code == 415
    assert await refused() == before + 2
    log = producer.log.read_text()
    assert "\x1b" not in log
    assert not any("forged" in line[:20] for line in log.splitlines())


async def test_a_body_without_a_length_is_bounded_while_it_is_read(producer: ProducerProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
    writer.write(head(producer, "Transfer-Encoding: chunked"))
    for _ in range(REQUEST_MAX_BYTES // 1_000 + 1):
        writer.write(b"3e8\r\n" + b" " * 1_000 + b"\r\n")  # and no end of it
    async with asyncio.timeout(120):
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_does_not_end_is_never_accepted(
    producer: ProducerProcess, client: httpx2.AsyncClient, begin: int
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", producer.port)
    writer.write(head(producer, "Content-Length: 20") + b'{"id":"half"}')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await post(client, {"id": "whole"})).status_code == 202
    assert await last_offset(client) == begin + 1


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: -1",
        "Content-Length: " + "9" * 5_000,
    ],
)
async def test_lengths_that_contradict_themselves_are_refused(
    producer: ProducerProcess, client: httpx2.AsyncClient, begin: int, lines: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
    writer.write(head(producer, lines) + b"2\r\n{}\r\n0\r\n\r\n")
    async with asyncio.timeout(120):
        assert int((await reader.readuntil(b"\r\n")).split()[1]) in (400, 413)
    writer.close()
    assert await last_offset(client) == begin


def head(producer: ProducerProcess, lines: str) -> bytes:
    return f"POST /events HTTP/1.1\r\nHost: 127.0.0.1:{producer.port}\r\n{lines}\r\n\r\n".encode()


# --- reading and looking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/web/nothing.js", 404, None),
        ("GET", "/web/%00", 404, None),
        ("GET", "/web/..%2f..%2fconfig.py", 404, None),
        ("GET", "/web/" + "x" * 5_000, 404, None),
        ("PUT", "/events", 405, {"GET", "HEAD", "POST"}),
        ("DELETE", "/", 405, {"GET", "HEAD"}),
        ("POST", "/web/app.js", 405, {"GET", "HEAD"}),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    client: httpx2.AsyncClient, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert allow is None or set(answer.headers["allow"].split(", ")) == allow


async def test_pages_follow_each_other_through_the_whole_journal(client: httpx2.AsyncClient, begin: int) -> None:
    sent = [f"p{n}" for n in range(25)]
    for part in (sent[:10], sent[10:11], sent[11:]):
        await post(client, [{"id": id} for id in part])
    found, cursor = [], await cursor_at(client, begin)
    while page := (await client.get("/events", params={"after": cursor, "limit": 4})).json()["events"]:
        assert len(page) <= 4
        found += [event["id"] for event in page]
        cursor = await cursor_at(client, begin + len(found))
    assert found == sent


@pytest.mark.parametrize("after", ["-1", "x", "e:", "e:-1", "e:1.5", "e:" + "9" * 30, ":1", "é:1", "e:١", "e f:1"])
async def test_an_invalid_cursor_is_refused(client: httpx2.AsyncClient, after: str) -> None:
    answer = await client.get("/events", params={"after": after})
    assert (answer.status_code, "EPOCH:OFFSET" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "١", "0000000005" + "9" * 10, "1" + "0" * 5_000])
async def test_an_invalid_limit_is_refused(client: httpx2.AsyncClient, limit: str) -> None:
    answer = await client.get("/events", params={"limit": limit})
    assert (answer.status_code, "1 to 1000" in answer.json()["detail"]) == (400, True)


async def test_a_cursor_of_another_journal_reads_from_the_beginning(client: httpx2.AsyncClient) -> None:
    await post(client, {"id": "a"})
    whole = (await client.get("/events")).json()
    assert (await client.get("/events", params={"after": "feedfeed:999"})).json() == whole
    assert whole["events"]


async def test_a_cursor_beyond_the_end_waits_at_the_end(client: httpx2.AsyncClient, begin: int) -> None:
    page = (await client.get("/events", params={"after": await cursor_at(client, begin + 10**9)})).json()
    assert page == {"events": [], "next": await cursor_at(client, begin)}


async def test_foreign_hosts_and_origins_are_refused_and_the_page_is_safe(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/", headers={"host": "evil.example"})).status_code == 421
    for origin in ("http://evil.example", "null", "http://[", "http://127.0.0.1.evil.example"):
        assert (await post(client, {}, origin=origin)).status_code == 403, origin
    assert (await post(client, {}, origin=str(client.base_url).rstrip("/"))).status_code == 202
    page = await client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


async def test_health_readiness_and_metrics_answer(client: httpx2.AsyncClient, begin: int) -> None:
    await post(client, [{}, {}])
    assert (await client.get("/livez")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json()["status"] == "ok"
    metrics = (await client.get("/metrics")).text
    assert f"oncecast_accepted_total {begin + 2}.0" in metrics
    assert f"oncecast_journal_last_offset {begin + 2}.0" in metrics


@pytest.mark.parametrize(
    "body",
    [b"[" + b"{}," * 90_000 + b"{}]", b'{"data":{' + b'"":1,' * 19_000 + b'"k":1}}', b"[" + b"0," * 90_000 + b"0]"],
)
async def test_a_request_of_very_many_small_parts_is_answered_too(client: httpx2.AsyncClient, body: bytes) -> None:
    assert (await post(client, body)).status_code in (202, 422)
