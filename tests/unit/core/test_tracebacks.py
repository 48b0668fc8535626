"""A traceback of users' code begins at the user's frame, whatever is around it and behind it."""

from __future__ import annotations

import asyncio
import json

import pytest

from oncecast import Event
from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.tracebacks import LINES_MAX, trace_of, users_traceback
from oncecast.core.transaction import OpenTransaction
from tests.support.arrivals import arrivals

THIS = f'File "{__file__}"'


class _Nothing:
    def __init__(self) -> None:
        self.emitted: list[bytes] = []


async def raised_by(app: App) -> Exception:
    """What the handler of the type `order` raises, as an attempt gets it."""
    work = arrivals(1, type="order")
    work[0].raw = work[0].raw.__class__(Event.new("order", id="1", source="/s").to_json())
    tx: OpenTransaction = _Nothing()  # type: ignore[assignment]
    try:
        await app.handle(work, tx, RunOptions(clock=SYSTEM_CLOCK, timeout_s=5))
    except Exception as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)  # without this very frame
    raise AssertionError("the handler raised nothing")


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_it_begins_at_the_handler_and_ends_at_the_users_last_frame(kind: str) -> None:
    app = App()

    async def reserve(event: Event) -> None:
        json.loads("{")

    def reserve_plain(event: Event) -> None:
        json.loads("{")

    app.on("order")(reserve if kind == "async" else reserve_plain)
    lines = users_traceback(await raised_by(app)).splitlines()
    assert lines[0].startswith(f"  {THIS}, line ")
    assert [line for line in lines if line.lstrip().startswith("File ")] == lines[:1]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: ")


async def test_causes_are_shown_without_frames_of_oncecast_or_of_asyncio() -> None:
    app = App()

    @app.on("order")
    async def reserve(event: Event) -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(10), 0.001)
        except TimeoutError as error:
            raise ValueError("slow") from error

    text = users_traceback(await raised_by(app))
    assert "The above exception was the direct cause" in text
    assert text.endswith("ValueError: slow")
    assert "asyncio/" not in text.replace("asyncio.wait_for", "")
    assert "oncecast/listener" not in text
    assert "Traceback" not in text


async def test_every_error_of_a_group_is_shown_from_the_users_frame_on() -> None:
    app = App()

    async def fail(text: str) -> None:
        raise ValueError(text)

    @app.on("order")
    async def reserve(event: Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("one"))
            group.create_task(fail("two"))

    text = users_traceback(await raised_by(app))
    assert "ValueError: one" in text
    assert "ValueError: two" in text
    assert text.count("in fail") == 2
    assert "taskgroups.py" not in text
    assert "Traceback" not in text


def test_an_error_without_a_users_frame_has_none() -> None:
    assert users_traceback(ValueError("never raised")) == ""
    assert trace_of(ValueError("never raised")) == "ValueError: never raised\n"


def test_a_traceback_without_end_is_shortened_in_its_middle() -> None:
    def nested(depth: int) -> None:
        try:
            if depth:
                nested(depth - 1)
        finally:
            raise ValueError(depth)

    with pytest.raises(ValueError, match="40") as caught:
        nested(40)
    lines = users_traceback(caught.value).splitlines()
    assert len(lines) == LINES_MAX + 1
    assert "lines left out" in lines[LINES_MAX // 2]
    assert lines[-1] == "ValueError: 40"
