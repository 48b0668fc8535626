"""A link carries what it is given, and each way of hurting it does what a network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oncecast.chaos.links import Link, is_accepted, is_commit
from oncecast.embedded.ports import LOOPBACK

QUIET_S = 0.1
"""So long nothing comes before we say that nothing comes."""
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind(link_name: str = "a>b", **options: object) -> AsyncIterator[Link]:
    """A link to a server that answers each line with itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    async with server, Link(link_name, server.sockets[0].getsockname()[1], **options) as link:  # type: ignore[arg-type]
        yield link


@asynccontextmanager
async def connection(link: Link) -> AsyncIterator[Ends]:
    """A client's."""
    reader, writer = await asyncio.open_connection(LOOPBACK, link.port)
    yield reader, writer
    writer.close()


async def ask(ends: Ends, line: bytes) -> bytes:
    """What comes back within five seconds; nothing where the connection has ended."""
    reader, writer = ends
    writer.write(line)
    async with asyncio.timeout(120):
        try:
            return await reader.readline()
        except ConnectionError:
            return b""


async def test_what_goes_in_comes_out_and_back() -> None:
    async with echo_behind() as link, connection(link) as ends:
        assert await ask(ends, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("kind", ["cut", "reset"])
async def test_connections_end_when_it_is_cut_or_reset(kind: str) -> None:
    async with echo_behind() as link, connection(link) as ends:
        await ask(ends, b"hello\n")
        link.inject(kind, "both")
        assert await ask(ends, b"again\n") == b""


async def test_a_cut_link_refuses_connections_until_it_is_cleared() -> None:
    async with echo_behind() as link:
        link.inject("cut", "both")
        async with connection(link) as ends:
            assert await ask(ends, b"hello\n") == b""
        link.clear()
        async with connection(link) as ends:
            assert await ask(ends, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_a_frozen_link_delays_bytes_and_loses_none(way: str) -> None:
    async with echo_behind() as link, connection(link) as ends:
        reader, writer = ends
        await ask(ends, b"hello\n")
        link.inject("freeze", way)
        writer.write(b"held back\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await reader.readline()
        link.clear()
        assert await ask(ends, b"and on\n") == b"held back\n"
        assert await reader.readline() == b"and on\n"


async def test_it_drops_the_connection_instead_of_the_answer_that_confirms() -> None:
    async with echo_behind(confirms=lambda answer: b"done" in answer) as link, connection(link) as ends:
        link.inject("drop", "both")
        assert await ask(ends, b"hello\n") == b"hello\n"
        assert await ask(ends, b"done\n") == b""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\5I", True),
        (b"C\0\0\0\x0fINSERT 0 5\0Z\0\0\0\5I", True),
        (b"C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\5T", False),
        (b"C\0\0\0\x0dROLLBACK\0Z\0\0\0\5I", False),
    ],
)
def test_a_commit_is_known_by_its_tag_and_an_insert_only_where_it_commits_by_itself(
    answer: bytes, expected: bool
) -> None:
    assert is_commit(answer) is expected


def test_an_acknowledgement_is_known_by_its_status() -> None:
    assert is_accepted(b"HTTP/1.1 202 Accepted\r\n")
    assert not is_accepted(b"HTTP/1.1 503 Service Unavailable\r\n")
