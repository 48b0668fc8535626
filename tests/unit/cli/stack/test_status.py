from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from oncecast.cli.stack.state_file import ProcessEntry
from oncecast.cli.stack.status import _ask_all, status
from tests.support.scripted_producer import Producer


def test_processes_that_do_not_run_are_shown_as_the_stack_left_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stopped process keeps its state, one that does not answer says so, and the exit status is 2."""
    processes = [
        {"name": "listener-a", "pid": None, "address": "http://127.0.0.1:1", "state": "stopped"},
        {"name": "producer", "pid": 7, "address": "http://127.0.0.1:1", "state": "running"},
        {"name": "postgres", "pid": 8, "address": "127.0.0.1:1", "state": "running"},
    ]
    (tmp_path / "stack.json").write_bytes(msgspec.json.encode(processes))
    assert status(data=tmp_path) == 2
    output = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert [(entry["name"], entry["state"]) for entry in output] == [
        ("listener-a", "stopped"),
        ("producer", "down"),
        ("postgres", "down"),
    ]


def test_a_process_that_is_named_is_asked_instead_of_a_stack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named addresses are asked, whatever stack there is; a password in one is not shown."""
    (tmp_path / "stack.json").write_bytes(b"[]")
    assert status(data=tmp_path, producer="http://me:s3cret@127.0.0.1:1", json=False) == 2
    text = capsys.readouterr().out
    assert "no answer" in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("health", "state", "output", "code"),
    [
        ({"status": "ok", "journal": {"last": 1234}, "listeners": [{}, {}]}, "ok", "1,234 events, 2 listeners", 0),
        (
            {"status": "degraded", "since": "2026-01-02T03:04:05.6Z", "reason": "redis: gone", "remedy": "start it"}
            | {"stored": 5},
            "degraded",
            "since 2026-01-02T03:04:05Z: redis: gone; start it (5 stored)",
            1,
        ),
        ({}, "ok", "", 0),
    ],
)
def test_health_is_summarised_in_a_few_words(
    health: dict[str, object], state: str, output: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table shows what `/health` answers, and leaves out what it does not say."""
    with Producer(health=health).in_a_thread() as url:
        assert status(listener=[url], json=False) == code
    text = " ".join(capsys.readouterr().out.split())
    assert f"listener {state} {url}" in text
    assert output in text


async def test_a_server_that_takes_connections_but_stands_still_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel takes them for a PostgreSQL or Redis that is frozen."""
    monkeypatch.setattr("oncecast.cli.stack.status.ANSWER_DEADLINE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = f"127.0.0.1:{frozen.getsockname()[1]}"
        entries = [ProcessEntry(name=name, address=address, state="running") for name in ("postgres", "valkey")]
        await _ask_all(entries)
    assert [(entry.state, entry.trouble) for entry in entries] == [("down", "no answer within 0.2 s")] * 2


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"pid":1}]'])
def test_a_stack_file_that_cannot_be_read_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken stack.json is one line that names it."""
    (tmp_path / "stack.json").write_bytes(content)
    if content == b"{}":
        (tmp_path / "stack.json").unlink()
        (tmp_path / "stack.json").mkdir()
    assert status(data=tmp_path) == 1
    error = capsys.readouterr().err
    assert "stack.json cannot be read" in error
    assert error.count("\n") == 1


def test_an_invalid_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid address is reported before any request."""
    assert status(producer="nowhere") == 1
    assert "address is like" in capsys.readouterr().err
