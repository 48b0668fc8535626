"""Tokens, in a whole stack: who may publish, read and operate."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from pathlib import Path

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from oncecast import Event, Publisher
from oncecast.client.errors import PublishRefused
from tests.acceptance.test_recovery import FAILING, oncecast
from tests.support.stacks import StackOf, drained, rows

TOKENS = {"PUBLISH_TOKEN": "may-publish", "SUBSCRIBE_TOKEN": "may-subscribe", "ADMIN_TOKEN": "may-do-anything"}


def bearer(right: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[right + '_TOKEN']}"}


async def test_each_right_needs_its_token_and_listeners_show_theirs(stack_of: StackOf) -> None:
    async with stack_of(environment={**FAILING, **TOKENS}) as stack, httpx2.AsyncClient(timeout=20) as client:
        producer, listener = stack.publish_url, stack.listener_urls["listener-a"]
        with pytest.raises(PublishRefused, match="PUBLISH_TOKEN"):
            async with Publisher(producer) as publisher:
                await publisher.publish(Event.new("tick"))
        async with Publisher(producer, token=TOKENS["PUBLISH_TOKEN"]) as publisher:
            await publisher.publish_many([Event.new("tick"), Event.new("oncecast.failing", {"fails": True}, id="f")])
        await drained(stack)
        for address, reads in ((producer, "/events"), (producer, "/api/groups"), (listener, "/api/events")):
            assert (await client.get(address + reads)).status_code == 401, reads
            assert (await client.get(address + reads, headers=bearer("PUBLISH"))).status_code == 401, reads
            for right in ("SUBSCRIBE", "ADMIN"):
                assert (await client.get(address + reads, headers=bearer(right))).status_code == 200, reads
        replay = {"json": {"events": [{"id": "f"}]}}
        for address in (producer, listener):
            for right, status in (("PUBLISH", 401), ("SUBSCRIBE", 401), ("ADMIN", 200)):
                answer = await client.post(f"{address}/api/dead-letters/replay", headers=bearer(right), **replay)  # type: ignore[arg-type]
                assert answer.status_code == status, (right, answer.text)
                for what in ("discard", "restore", "reset"):
                    body = {"select": {"type": "none"}}
                    url = f"{address}/api/dead-letters/{what}"
                    assert (await client.post(url, headers=bearer(right), json=body)).status_code == status, what
            url = f"{address}/api/dead-letter-causes"
            for right, status in (("PUBLISH", 401), ("SUBSCRIBE", 200), ("ADMIN", 200)):
                assert (await client.get(url, headers=bearer(right))).status_code == status, right
        assert (await client.delete(f"{producer}/api/groups/other", headers=bearer("SUBSCRIBE"))).status_code == 401
        for address in (producer, listener):
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                assert (await client.get(address + path)).status_code == 200
        assert (await client.get(producer)).status_code == 200
        assert await rows(stack, "select count(*) from oncecast.events") == [(2,)]
        for log in Path(stack.data).glob("*/output.log"):
            assert not any(token in log.read_text() for token in TOKENS.values())


async def test_a_websocket_shows_its_tokens_in_a_header_or_as_a_subprotocol(stack_of: StackOf) -> None:
    async with stack_of(listeners=1, environment=TOKENS) as stack:
        url = stack.publish_url.replace("http", "ws")
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 401

        async def published(connection: object) -> str:
            await connection.send('{"type": "tick"}')  # type: ignore[attr-defined]
            while True:
                answer = msgspec.json.decode(await connection.recv())  # type: ignore[attr-defined]
                if answer["type"].startswith("oncecast."):
                    return str(answer["type"])

        async with connect(url, additional_headers=bearer("SUBSCRIBE")) as connection:
            assert await published(connection) == "oncecast.refused"
        offered = [
            Subprotocol("bearer." + urlsafe_b64encode(TOKENS[f"{right}_TOKEN"].encode()).decode().rstrip("="))
            for right in ("SUBSCRIBE", "PUBLISH")
        ]
        async with connect(url, subprotocols=[Subprotocol("cloudevents.json"), *offered]) as connection:
            assert connection.subprotocol == "cloudevents.json"
            assert await published(connection) == "oncecast.accepted"


async def test_commands_show_the_tokens_of_their_environment(
    stack_of: StackOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack_of(listeners=1, environment={**FAILING, **TOKENS}) as stack:
        async with Publisher(stack.publish_url, token=TOKENS["PUBLISH_TOKEN"]) as publisher:
            await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="f"))
        await drained(stack)
        listing = ("dead-letters", "list", "--data", str(stack.data))
        status, _, error = await oncecast(*listing)
        assert (status, "SUBSCRIBE_TOKEN" in error) == (1, True)
        assert error.endswith("; neither ADMIN_TOKEN nor SUBSCRIBE_TOKEN is set here\n")
        reading = [
            ("dead-letters", "list"),
            ("dead-letters", "causes"),
            ("dead-letters", "show", "f"),
            ("dead-letters", "export"),
            ("dead-letters", "replay", "--all", "--dry-run"),
            ("groups", "list"),
            ("journal",),
        ]
        monkeypatch.setitem(os.environ, "SUBSCRIBE_TOKEN", TOKENS["SUBSCRIBE_TOKEN"])
        for words in reading:
            status, _, error = await oncecast(*words, "--data", str(stack.data))
            assert (status, error) == (0, ""), words
        status, _, error = await oncecast("groups", "forget", "other", "--data", str(stack.data))
        assert (status, "(ADMIN_TOKEN of the client)" in error) == (1, True)
        assert error.endswith("; ADMIN_TOKEN is not set here; SUBSCRIBE_TOKEN was sent instead\n")
        monkeypatch.setitem(os.environ, "ADMIN_TOKEN", "another-stacks")
        status, _, error = await oncecast(*listing)
        assert (status, error.endswith("; it does not accept the ADMIN_TOKEN of this environment\n")) == (1, True)
        monkeypatch.setitem(os.environ, "ADMIN_TOKEN", TOKENS["ADMIN_TOKEN"])
        for words in reading:
            assert (await oncecast(*words, "--data", str(stack.data)))[0] == 0, words


async def test_a_wider_address_needs_all_tokens_or_a_plain_word(tmp_path: Path) -> None:
    status, _, error = await oncecast("producer", "--host", "0.0.0.0", "--journal-path", str(tmp_path / "j.db"))
    assert (status, error) == (
        1,
        "oncecast: HOST=0.0.0.0 lets in anybody who reaches this machine: set PUBLISH_TOKEN, SUBSCRIBE_TOKEN,"
        " LISTENER_TOKENS, ADMIN_TOKEN; or ALLOW_NO_TOKEN=1 if that is meant\n",
    )
