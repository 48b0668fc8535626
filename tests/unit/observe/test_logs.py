"""Logs report; they decide nothing, and lose nothing."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import sys
from pathlib import Path
from typing import IO, Any, get_args, get_type_hints

import pytest

from oncecast.core import telemetry
from oncecast.core.telemetry import (
    AccessRefused,
    BatchEvent,
    ConnectionRefused,
    DeadLettered,
    DependencyReady,
    EventsEnded,
    ForeignValues,
    InsertFailed,
    OperatorActed,
    ProcessingFailed,
    ProcessStarted,
    TelemetryEvent,
)
from oncecast.observe.logs import console_line, log_telemetry

HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("format", ["console", "json"])
def test_a_full_disk_under_the_log_stops_no_process(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", _Text(full))
        record = log_telemetry("here", format=format)
        record(DependencyReady("redis"))


async def test_lines_of_one_loop_turn_are_written_together_before_any_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    record = log_telemetry("here")
    record(DependencyReady("redis"))
    record(DependencyReady("database"))
    await asyncio.sleep(0)
    [text] = written
    redis = rf"{HEAD} INFO here \[redis\] ✅ Redis ready in here\n"
    assert re.fullmatch(redis + rf"{HEAD} INFO here \[database\] ✅ PostgreSQL ready in here\n", text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("format", ["console", "json"])
def test_a_stream_that_lacks_characters_gets_every_line_with_them_escaped(
    format: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    record = log_telemetry("here", format=format)
    record(DependencyReady("redis"))
    record(ProcessingFailed("é-1", "ValueError: \udcff", 0))
    first, second = stream.buffer.getvalue().decode(encoding).splitlines()
    assert r"\u2705 Redis ready in here" in first
    assert "Processing failed for event" in second


def test_a_failed_attempt_is_logged_with_an_indented_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = ProcessingFailed(
        "o-1", "ValueError: no\nsecond", 2, "/s", '  File "shop.py", line 1, in f\n\x1b[31mValueError: no'
    )
    log_telemetry("here")(failed)
    first, *further = capsys.readouterr().out.splitlines()
    assert first.endswith("❌ Processing failed for event o-1 at here, retries left: 2 (ValueError: no)")
    assert further == ['      File "shop.py", line 1, in f', "    \ufffd[31mValueError: no"]
    log_telemetry("here", format="json")(failed)
    line = json.loads(capsys.readouterr().out)
    assert (line["component"], line["traceback"], line["id"]) == ("events", failed.traceback, "o-1")


@pytest.mark.parametrize(
    ("telemetry", "component"),
    [
        (AccessRefused(401, "no token"), "http"),
        (ConnectionRefused(408, "too late"), "http"),
        (OperatorActed("forget the group shop", 1, "127.0.0.1"), "http"),
        (ForeignValues(1, "key", "''"), "redis"),
    ],
)
def test_lines_about_http_and_connections_have_their_own_component(
    telemetry: TelemetryEvent, component: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log_telemetry("here", format="json", level="debug")(telemetry)
    assert json.loads(capsys.readouterr().out)["component"] == component


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("retries", "failed after all retries"),
        ("rejected", "was rejected by its handler"),
        ("data", "has data that does not fit its handler"),
    ],
)
def test_a_dead_event_is_logged_with_what_happened(cause: Any, text: str) -> None:
    died = DeadLettered("o-1", "Reject: sold out", cause)
    assert console_line(died, "here") == f"❌ Event o-1 {text} in here (Reject: sold out)"


def test_the_first_line_names_what_started_its_version_pid_address_and_what_it_serves() -> None:
    started = ProcessStarted("producer", "1.2.3", 77, "http://127.0.0.1:8080", "journal journal.db (1f)")
    assert console_line(started, "here") == (
        "▶️ Oncecast producer 1.2.3 started in here: pid 77, http://127.0.0.1:8080, journal journal.db (1f)"
    )


def test_every_telemetry_event_has_a_line_with_its_values() -> None:
    samples: dict[Any, list[Any]] = {str: ["redis"], int: [1, 2], float: [1.5], bool: [True]}
    kinds = [kind for kind in vars(telemetry).values() if isinstance(kind, type) and issubclass(kind, TelemetryEvent)]
    for kind in kinds:
        if kind not in (TelemetryEvent, BatchEvent, EventsEnded):
            hints = get_type_hints(kind)
            values = [samples.get(hints[name]) or get_args(hints[name]) for name in kind.__struct_fields__]
            for combination in itertools.product(*values):
                assert re.fullmatch(r"[^{}]+", console_line(kind(*combination), "here"))


def test_an_error_of_several_lines_is_logged_by_its_first() -> None:
    assert console_line(InsertFailed("1", "disk\nERROR forged", 2), "here") == (
        "❌ DB insert failed for 1, retries left: 2 (disk)"
    )


class _Text:
    encoding = "utf-8"

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def write(self, text: str) -> None:
        self._raw.write(text.encode())

    def flush(self) -> None:
        """Nothing is kept back."""
