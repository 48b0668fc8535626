from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cyclopts
import msgspec
import pytest

from oncecast.cli.events.publish import send, tail
from oncecast.cli.operate import operator
from oncecast.cli.stack.state_file import addresses
from oncecast.core.errors import ConfigError
from tests.support.scripted_producer import Producer, Request, accept, refuse, when


def test_send_prints_the_number_of_accepted_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is accepted as a whole exits with 0 and its count."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"".join(b'{"id":%d}\n' % n for n in range(2500)))
    producer = Producer()
    with producer.in_a_thread() as url:
        assert send(str(file), to=url) == 0
    result = msgspec.json.decode(capsys.readouterr().out)
    assert (result["accepted"], result["complete"], result["ids_given"]) == (2500, True, 0)
    assert [event["id"] for event in producer.acknowledged] == list(range(2500))


def stack_of(folder: Path, **states: tuple[str, str]) -> Path:
    """The folder of a stack with these processes: where each is, and its state."""
    processes = [
        {"name": name, "pid": 7, "address": address, "state": state} for name, (address, state) in states.items()
    ]
    (folder / "stack.json").write_bytes(msgspec.json.encode(processes))
    return folder


def test_send_finds_the_producer_of_a_stack_on_another_port_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As other commands find theirs; among several it takes one that runs."""
    (tmp_path / "events").write_bytes(b'{"id":"a"}\n')
    producer = Producer()
    with producer.in_a_thread() as url:
        data = stack_of(tmp_path, producer=("http://127.0.0.1:1", "stopped"), producer_2=(url, "running"))
        assert send(str(tmp_path / "events"), data=data) == 0
    assert [event["id"] for event in producer.acknowledged] == ["a"]
    assert capsys.readouterr().err == f"The producer is {url}, of the stack in {tmp_path}.\n"


def test_a_producer_of_a_stack_that_is_stopped_for_now_is_waited_for_and_not_mistaken_for_the_usual_one(
    tmp_path: Path,
) -> None:
    """While anything of the stack runs, its producer may come again; afterwards the usual address is meant."""
    away = ("http://127.0.0.1:1", "stopped")
    data = stack_of(tmp_path, producer=away, postgres=("127.0.0.1:2", "running"))
    assert addresses("producer", None, data) == ["http://127.0.0.1:1"]
    data = stack_of(tmp_path, producer=away, postgres=("127.0.0.1:2", "stopped"))
    assert addresses("producer", None, data) == ["http://localhost:8080"]
    assert addresses("producer", "http://x", data) == ["http://x"]


def test_tail_finds_the_producer_of_a_stack_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = stack_of(tmp_path, producer=("http://", "running"))
    assert tail(data=data) == 1
    reported = capsys.readouterr().err
    assert f"The producer is http://, of the stack in {tmp_path}.\n" in reported
    assert "a producer's address is like http://localhost:8080, not 'http://'" in reported


def test_send_keeps_the_order_of_its_file(tmp_path: Path) -> None:
    """A batch that is refused for now holds up those behind it."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"".join(b'{"id":%d}\n' % n for n in range(2500)))
    producer = Producer([refuse(503)])
    with producer.in_a_thread() as url:
        assert send(str(file), to=url) == 0
    assert [event["id"] for event in producer.acknowledged] == list(range(2500))
    assert producer.most_under_way == 1


def test_send_keeps_no_order_where_none_is_wanted(tmp_path: Path) -> None:
    """With --any-order a batch goes out though none before it is accepted."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"".join(b'{"id":%d}\n' % n for n in range(10_000)))
    second_came = asyncio.Event()

    async def accept_and_tell(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await accept(producer, request, writer)
        second_came.set()

    producer = Producer([when(second_came, accept), accept_and_tell])
    with producer.in_a_thread() as url:
        assert send(str(file), to=url, in_order=False) == 0
    assert sorted(event["id"] for event in producer.acknowledged) == list(range(10_000))
    assert producer.most_under_way >= 2


def test_send_names_the_line_of_a_refused_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal exits with 1, names the line and the reason, and says what was accepted all the same."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'\n{"id":"a"}\n\n{"id":"b"}\n')
    with Producer([refuse(422, {"detail": "event 2: too deep"})]).in_a_thread() as url:
        assert send(str(file), to=url, json=False) == 1
    captured = capsys.readouterr()
    assert captured.err == "oncecast: line 4 (b) is refused: too deep\n"
    assert captured.out == "No event was acknowledged.\n"


def test_send_prints_why_nothing_is_accepted_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise somebody with a wrong address would look at nothing for a minute."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'{"id":"a"}\n')
    with Producer([refuse(503, {"detail": "the journal is full"})]).in_a_thread() as url:
        assert send(str(file), to=url) == 0
    assert capsys.readouterr().err == "the journal is full; trying again for up to 60 s\n"


def test_send_says_that_part_was_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a later line is bad, the count accepted and the failure are both in the result."""
    file = tmp_path / "events.ndjson"
    pad = "x" * 600
    lines = [msgspec.json.encode({"id": n, "pad": pad}) for n in range(3000)]
    file.write_bytes(b"\n".join([*lines, b"oops"]))
    producer = Producer([accept])
    with producer.in_a_thread() as url:
        assert send(str(file), to=url, json=True) == 1
    result = msgspec.json.decode(capsys.readouterr().out)
    assert not result["complete"]
    assert result["accepted"] <= len(producer.acknowledged)
    assert "line 3001 is no JSON object" in result["error"]


def test_send_gives_up_after_its_deadline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A producer that stays away for the deadline is an error in one line, without a trace."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'{"id":"a"}\n')
    with Producer([refuse(503, {"detail": "the journal is full"})] * 1000).in_a_thread() as url:
        assert send(str(file), to=url, deadline="300ms") == 1
    assert "not acknowledged within 0.3 s" in (error := capsys.readouterr().err)
    assert error.count("\n") == 2, "what is the matter, reported at once, and the end of it"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (partial(send, to="nowhere"), "a producer's address is like"),
        (partial(send, deadline="soon"), "invalid value for --deadline: 'soon'"),
        (partial(send, deadline="0"), "invalid value for --deadline: '0' (expected a duration above 0)"),
    ],
)
def test_a_users_mistake_is_one_line(
    command: Callable[[str], int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong address or duration is one line on stderr and status 1."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'{"id":"a"}\n')
    assert command(str(file)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be opened or read is one line with its name."""
    assert send(str(tmp_path / "none")) == 1
    assert "none: No such file or directory" in capsys.readouterr().err
    assert send(str(tmp_path)) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_the_token_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PUBLISH_TOKEN, or the file that PUBLISH_TOKEN_FILE names, is shown to the producer and nowhere else."""
    (tmp_path / "events").write_bytes(b'{"id":"a"}\n')
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("PUBLISH_TOKEN_FILE", str(tmp_path / "token"))
    producer = Producer([refuse(401, {"detail": "the token is not known"})])
    with producer.in_a_thread() as url:
        assert send(str(tmp_path / "events"), to=url) == 1
    assert producer.requests[0].headers["authorization"] == "Bearer s3cret"
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("content", "reported"),
    [(None, "cannot read '{}': No such file or directory"), (b"\xff\xfe", "'{}' is not UTF-8")],
)
def test_a_token_file_that_cannot_be_read_is_one_line(
    content: bytes | None,
    reported: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the command, it is named with its variable, and the status is 1."""
    (tmp_path / "events").write_bytes(b'{"id":"a"}\n')
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    for right in ("PUBLISH", "SUBSCRIBE", "ADMIN"):
        monkeypatch.delenv(f"{right}_TOKEN", raising=False)
        monkeypatch.setenv(f"{right}_TOKEN_FILE", str(file))
    assert (send(str(tmp_path / "events")), tail()) == (1, 1)
    lines = [f"oncecast: {right}_TOKEN_FILE: {reported.format(file)}" for right in ("PUBLISH", "SUBSCRIBE")]
    assert capsys.readouterr().err.splitlines() == lines
    with pytest.raises(ConfigError, match=r"^ADMIN_TOKEN_FILE: "), operator("producer", "http://localhost", tmp_path):
        raise AssertionError("nobody is asked")


def test_standard_input_is_a_hyphen_and_the_producer_is_named_by_from() -> None:
    """The command line takes `send -` and `tail --from URL` as they are documented."""
    app = cyclopts.App()
    app.command(send)
    app.command(tail)
    _, sending, _ = app.parse_args(["send", "-", "--to", "http://a"])
    assert (sending.args, sending.kwargs) == (("-",), {"to": "http://a"})
    _, sending, _ = app.parse_args(["send", "-", "--any-order"])
    assert sending.kwargs == {"in_order": False}
    _, tailing, _ = app.parse_args(["tail", "--from", "http://a", "--earliest"])
    assert tailing.kwargs == {"from_": "http://a", "earliest": True}
