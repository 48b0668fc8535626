"""To be a listener of a group is a right of its own, and a producer speaks only for its own journal.

The other side is hostile here: a client that claims to be a listener, or a producer that claims another's journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from oncecast import Event, Publisher
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.journal import KnownGroup
from oncecast.core.wire import ListenerReport, Resume, Welcome, decode_server_frame, encode, events_frame
from oncecast.embedded import Stack
from oncecast.journal import SqliteJournal
from oncecast.producer.broadcast.session import SocketLimits
from tests.acceptance.test_recovery import oncecast
from tests.support.producers import Address, ProducerProcess, closed, post, producer_here, producer_process
from tests.support.stacks import StackOf, drained, rows, until

V1 = [Subprotocol("oncecast.v1")]
TOKENS = {
    "PUBLISH_TOKEN": "may-publish",
    "SUBSCRIBE_TOKEN": "may-subscribe",
    "ADMIN_TOKEN": "may-do-anything",
    "LISTENER_TOKENS": "shop:may-listen-for-shop,audit:may-listen-for-audit",
}
READER, SHOP, AUDIT, ADMIN = "may-subscribe", "may-listen-for-shop", "may-listen-for-audit", "may-do-anything"


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProducerProcess]:
    with producer_process(tmp_path_factory.mktemp("producer"), **TOKENS) as process:
        yield process


@asynccontextmanager
async def as_group(
    producer: Address, group: str, token: str | None = None
) -> AsyncIterator[tuple[ClientConnection, Welcome]]:
    """A client that has taken the welcome, and resumed as a listener of `group`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with connect(producer.ws, subprotocols=V1, additional_headers=headers) as connection:
        welcome = decode_server_frame(await connection.recv(decode=False))
        assert isinstance(welcome, Welcome)
        await connection.send(encode(Resume(instance="hostile", group=group, credit=10**6)).decode())
        yield connection, welcome


async def asked(producer: Address, path: str, token: str = READER) -> Any:
    """What the producer's API answers."""
    async with producer.client() as client:
        return (await client.get(path, headers={"Authorization": f"Bearer {token}"})).json()


@pytest.mark.parametrize(("token", "group"), [(READER, "shop"), (AUDIT, "shop"), (SHOP, "audit"), (SHOP, "other")])
async def test_a_reader_or_a_listener_of_another_group_is_not_accepted_as_a_listener_of_this_group(
    producer: ProducerProcess, token: str, group: str
) -> None:
    async with as_group(producer, group, token) as (connection, welcome):
        assert await closed(connection) == (1008, f"LISTENER_TOKEN is not that of the group '{group}'")
    assert (welcome.key is None) == (token == READER), "only who may listen learns how the journal proves itself"


@pytest.mark.parametrize(("token", "group"), [(SHOP, "shop"), (AUDIT, "audit"), (ADMIN, "any_group")])
async def test_a_listener_of_its_own_group_gets_the_events_and_the_journals_key(
    producer: ProducerProcess, token: str, group: str
) -> None:
    async with producer.client() as client:
        await post(client, {"id": "x"}, authorization="Bearer may-publish")
    async with as_group(producer, group, token) as (connection, welcome):
        assert decode_server_frame(await connection.recv(decode=False))
    assert welcome.key


async def test_reports_of_a_reader_do_not_move_the_retention(producer: ProducerProcess) -> None:
    async with producer.client() as client:
        answer = await post(client, {"id": "x"}, authorization="Bearer may-publish")
    [receipt] = answer.json()["events"]
    async with as_group(producer, "", READER) as (connection, _welcome):
        await connection.send(encode(ListenerReport(cursor=receipt["cursor"])).decode())
        for _ in range(2):
            pong = await connection.ping()
            await pong
        assert "" not in [group["name"] for group in (await asked(producer, "/api/groups"))["groups"]]
        assert (await asked(producer, "/api/status"))["listeners"] == []
        async with producer.client() as client:
            headers = {"Authorization": "Bearer may-do-anything"}
            replay = {"events": [{"id": "x"}]}
            answer = await client.post("/api/dead-letters/replay", headers=headers, json=replay)
            assert answer.status_code == 503, "nobody is asked who is no listener"


@pytest.mark.parametrize("group", ["..", "a/b", "Shop", "x" * 41, "first-to-join", "a b", "\n"])
async def test_an_invalid_group_name_is_refused(producer: ProducerProcess, group: str) -> None:
    async with as_group(producer, group, ADMIN) as (connection, _welcome):
        code, reason = await closed(connection)
    assert (code, reason) == (1008, "invalid group name: use a-z, 0-9 and _, at most 40 characters")


async def test_groups_are_bounded_and_those_that_are_known_come_back(tmp_path: Path) -> None:
    limits = SocketLimits(groups_max=2)
    async with (
        producer_here(tmp_path, sockets=limits) as producer,
        as_group(producer, "a"),
        as_group(producer, "b"),
    ):
        async with as_group(producer, "c") as (connection, _welcome):
            code, reason = await closed(connection)
            assert (code, reason.startswith("there are 2 groups already")) == (1008, True)
        async with as_group(producer, "a") as (connection, _welcome):
            pong = await connection.ping()
            await pong


async def test_a_cursor_beyond_the_journals_end_is_not_believed(producer: ProducerProcess) -> None:
    async with as_group(producer, "shop", SHOP) as (connection, welcome):
        await connection.send(encode(ListenerReport(cursor=f"{welcome.epochs[-1].epoch}:{2**52}")).decode())

        async def is_known() -> bool:
            status = await asked(producer, "/api/groups")
            return any(group["name"] == "shop" and group["behind"] == 0 for group in status["groups"])

        await until(is_known)
    async with producer.client() as client:
        await post(client, {"id": "later"}, authorization="Bearer may-publish")
    [shop] = [g for g in (await asked(producer, "/api/groups"))["groups"] if g["name"] == "shop"]
    assert shop["behind"] == 1, "what comes later is not processed"


@pytest.mark.parametrize("guarded", ["SUBSCRIBE_TOKEN", "ADMIN_TOKEN"])
async def test_a_producer_whose_readers_need_a_token_wants_one_of_its_listeners_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: str
) -> None:
    monkeypatch.setenv(guarded, "hunter2hunter2")
    monkeypatch.chdir(tmp_path)
    status, _, error = await oncecast("producer", "--port", "0")
    assert (status, error) == (
        1,
        f"oncecast: LISTENER_TOKENS: not set, though {guarded} is, so anybody who may read could act as a listener:"
        " set LISTENER_TOKENS here and LISTENER_TOKEN of each listener to one secret; or ALLOW_NO_TOKEN=1 if that is"
        " meant\n",
    )


async def test_groups_of_odd_names_that_are_there_can_be_forgotten(tmp_path: Path) -> None:
    names = ("..", ".", "a/b", "a b", "%2E%2E", "ü")
    journal = await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, record=lambda _telemetry: None)
    await journal.keep_groups([KnownGroup(name, 0) for name in names])
    await journal.close()
    with producer_process(tmp_path) as producer:
        for name in names:
            status, out, error = await oncecast("groups", "forget", name, "--producer", producer.http, "--no-json")
            assert (status, out) == (0, f"{name} does not hold back retention any more.\n"), error
        groups = (await asked(producer, "/api/groups"))["groups"]
        assert all(group["forgotten"] for group in groups if group["name"] in names)


@asynccontextmanager
async def impostor(welcome: Welcome) -> AsyncIterator[str]:
    """A producer that claims another's journal: it has the name and the epochs, and sends events in its place."""

    async def claim(connection: ServerConnection) -> None:
        forged = [Event.new("forged", n, id=f"forged-{n}").to_json() for n in range(1, 201)]
        with contextlib.suppress(ConnectionClosed):
            await connection.send(encode(welcome).decode())
            await connection.recv()
            await connection.send(events_frame(1, 1, b"[" + b",".join(forged) + b"]").decode())
            await connection.wait_closed()

    async with serve(claim, "127.0.0.1", 0, subprotocols=V1) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def welcome_of(stack: Stack) -> Welcome:
    """What the real producer says."""
    async with connect(stack.publish_url.replace("http", "ws"), subprotocols=V1) as connection:
        welcome = decode_server_frame(await connection.recv(decode=False))
        assert isinstance(welcome, Welcome)
        return welcome


async def test_a_producer_that_claims_anothers_journal_skips_none_of_its_events(stack_of: StackOf) -> None:
    also: dict[str, str] = {}

    async def detour(name: str) -> Mapping[str, str]:
        return also if name.startswith("listener") else {}

    async with stack_of(listeners=1, detour=detour) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("tick"))
        await drained(stack)
        await stack.stop("listener-a")
        real = await welcome_of(stack)
        async with impostor(msgspec.structs.replace(real, key="guessed", last=200)) as url:
            also["WS_URL"] = f"{url},{stack.publish_url.replace('http', 'ws')}"
            await stack.stop("producer")
            await stack.start("listener-a")
            log = stack.data / "listener-a" / "output.log"

            async def is_refused() -> bool:
                return "does not show its key" in log.read_text()

            await until(is_refused)
            await stack.start("producer")
            await publisher.publish_many([Event.new("tick") for _ in range(200)])

            async def all_are_stored() -> bool:
                return await rows(stack, "select count(*) from oncecast.events") == [(201,)]

            await until(all_are_stored)
            assert await rows(stack, "select count(*) from oncecast.events where type = 'forged'") == [(0,)]
            assert await rows(stack, "select count(*) from oncecast.gaps") == [(0,)]
            async with httpx2.AsyncClient() as client:
                health = (await client.get(f"{stack.listener_urls['listener-a']}/health")).text
            assert real.key is not None
            assert real.key not in health + log.read_text()


async def test_two_addresses_of_one_producer_are_said_in_one_line_and_everything_is_stored_once(
    stack_of: StackOf,
) -> None:
    also: dict[str, str] = {}

    async def detour(name: str) -> Mapping[str, str]:
        return also if name.startswith("listener") else {}

    async with stack_of(listeners=1, detour=detour) as stack, Publisher(stack.publish_url) as publisher:
        await stack.stop("listener-a")
        url = stack.publish_url.replace("http", "ws")
        also["WS_URL"] = f"{url},{url.replace('127.0.0.1', 'localhost')}"
        await stack.start("listener-a")
        await publisher.publish_many([Event.new("tick") for _ in range(200)])

        async def is_said() -> bool:
            return "serve the same journal" in (stack.data / "listener-a" / "output.log").read_text()

        await until(is_said)

        async def all_are_stored() -> bool:
            return await rows(stack, "select count(*) from oncecast.events") == [(200,)]

        await until(all_are_stored)
