"""Large requests are counted before they are decoded, parsed in slices, and bounded in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import JournalUnavailable
from oncecast.core.wire import Epoch
from oncecast.http.body import read_body
from oncecast.http.problems import Problem
from oncecast.journal import JournalLimits, SqliteJournal
from oncecast.producer.broadcast.reading import ReadBudget
from oncecast.producer.cloudevents.parse import BATCHED, JSON, NDJSON, Bare, read_in_slices, read_publication
from oncecast.producer.intake import Intake, IntakeLimits
from tests.support.producers import ignore

MIB = 2**20
LIMITS = {"event_max_bytes": MIB, "max_events": 1_000}


class Journal:
    """A journal that keeps events in memory."""

    epochs = (Epoch("e", 1),)

    def __init__(self) -> None:
        self.events: list[bytes] = []

    async def append(self, events: Sequence[bytes]) -> int:
        self.events += events
        return 1


def intake(journal: Journal, **limits: int) -> Intake:
    given = replace(IntakeLimits(request_max_events=1_000, requests_max_bytes=MIB), **limits)
    budget = ReadBudget(SYSTEM_CLOCK)
    return Intake(journal, SYSTEM_CLOCK, ignore, source="/s", limits=given, budget=budget)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}\n" * 1_001, NDJSON[0]),
        (b"[" + b"{}," * 1_000 + b"{}]", JSON),
        (b"[" + b"{}," * 1_500_000 + b"{}]", JSON),
        (b"[" + b"1," * 1_500_000 + b"1]", BATCHED),
        (b"\n" * 3_000_000, NDJSON[0]),
    ],
    ids=["lines", "array", "large array", "numbers", "blank lines"],
)
def test_a_request_with_too_many_events_is_refused_before_decoding_them(body: bytes, content_type: str) -> None:
    reading = read_in_slices(body, content_type, Bare(), **LIMITS)
    with pytest.raises(Problem, match="REQUEST_MAX_EVENTS") as refused:
        for turns, _ in enumerate(reading):
            assert turns < 10, "it is counted no further than needed"
    assert refused.value.status == 413


@pytest.mark.parametrize(
    "body", [b"[" + b"{}," * 999 + b"{}]", b"[" + (b'{"x":[' + b"1," * 450_000 + b"1]},") * 3 + b"{}]"]
)
def test_the_maximum_of_events_is_read_with_any_number_of_commas(body: bytes) -> None:
    assert read_publication(body, JSON, Bare(), **LIMITS).events


def test_a_large_body_is_read_in_slices_and_names_the_invalid_place() -> None:
    lines = [b'{"n":%d,"x":"%s"}' % (n, b"x" * 900) for n in range(900)]
    whole = read_publication(b"\n".join(lines), NDJSON[0], Bare(), **LIMITS)
    slices = read_in_slices(b"[" + b",".join(lines) + b"]", JSON, Bare(), **LIMITS)
    assert sum(1 for _ in slices) > 3
    assert len(whole.events) == 900
    lines[850] = b'{"x":1e999}'
    for body, content_type, place in (
        (b"\n\n".join(lines), NDJSON[0], "line 1701"),
        (b"[" + b",".join(lines) + b"]", JSON, "event 851"),
    ):
        with pytest.raises(Problem, match=place):
            read_publication(body, content_type, Bare(), **LIMITS)
    assert gc.isenabled()


def test_ids_from_an_idempotency_key_depend_on_the_position_in_the_request() -> None:
    body = b"[" + b",".join([b'{"x":"%s"}' % (b"y" * 1_000)] * 900) + b"]"
    publication = read_publication(body, JSON, Bare(idempotency_key="k"), **LIMITS)
    assert len(set(publication.identities)) == 900


async def test_other_tasks_run_while_a_large_request_is_parsed() -> None:
    journal = Journal()
    body = b"\n".join([b'{"x":"%s"}' % (b"y" * 1_000)] * 1_000)
    working = asyncio.create_task(intake(journal).publish(body, NDJSON[0]))
    turns = 0
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    assert (len(journal.events), turns > 4) == (1_000, True)


async def answered(intake: Intake, chunks: Sequence[bytes], **headers: str) -> tuple[int, bytes]:
    """Return the answer to a request whose body arrives in these chunks."""
    said: list[Any] = []
    messages = iter(
        [{"type": "http.request", "body": chunk, "more_body": n + 1 < len(chunks)} for n, chunk in enumerate(chunks)]
    )

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        said.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await intake({"type": "http", "method": "POST", "headers": pairs, "query_string": b""}, receive, send)
    return said[0]["status"], said[1]["body"]


async def test_bodies_in_progress_are_bounded_and_refused_ones_free_their_room() -> None:
    station = intake(Journal(), request_max_bytes=1_000, requests_max_bytes=1_000)
    gate = asyncio.Event()

    async def receive() -> Any:
        if not gate.is_set():
            gate.set()
            return {"type": "http.request", "body": b'{"x":"' + b"y" * 900, "more_body": True}
        return await asyncio.Event().wait()

    async def send(_message: Any) -> None:
        """Ignore the message."""

    scope = {"type": "http", "method": "POST", "headers": [], "query_string": b""}
    slow = asyncio.create_task(station(scope, receive, send))
    await gate.wait()
    await asyncio.sleep(0)
    status, said = await answered(station, [b'{"x":"' + b"y" * 500 + b'"}'])
    assert (status, b"REQUESTS_MAX_BYTES" in said) == (503, True)
    slow.cancel()
    await asyncio.wait([slow])
    assert (await answered(station, [b'{"x":"' + b"y" * 500 + b'"}']))[0] == 202


async def test_a_body_in_many_pieces_is_joined() -> None:
    journal = Journal()
    status, _ = await answered(intake(journal), [b'{"x":"', *[b"y"] * 20_000, b'"}'])
    assert (status, len(journal.events)) == (202, 1)


async def test_a_binary_event_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a", "ce-source": "/s", "ce-type": "t", "content-type": JSON}
    status, said = await answered(intake(Journal()), [b"[" * 2 * MIB], **headers)
    assert (status, b"an event may have" in said) == (413, True)


async def test_a_trickling_body_is_refused() -> None:
    async def receive() -> Any:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(Problem, match="too slowly"):
        await read_body(receive, max_bytes=MIB, grace_s=0.05)


async def test_a_late_event_loop_does_not_make_a_commit_unknown(
    tmp_path: Path,
) -> None:
    limits = JournalLimits(append_deadline_s=0.05)
    journal = await SqliteJournal.open(tmp_path / "journal.db", SYSTEM_CLOCK, limits=limits, record=ignore)
    try:
        appending = asyncio.create_task(journal.append([b"{}"]))
        await asyncio.sleep(0)
        while journal._written < 1:  # block the event loop until after the deadline
            pass
        deadline = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < deadline:
            pass
        assert await appending == 1
    except JournalUnavailable as error:
        pytest.fail(str(error))
    finally:
        await journal.close()
