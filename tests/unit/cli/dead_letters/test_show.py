"""What the commands about dead letters make of their flags, and how a replay is paced and reported."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext

import pytest

from oncecast.cli.dead_letters.edit import fault_of
from oncecast.cli.dead_letters.replay import Pace, ReplayRun, _per_s
from oncecast.cli.dead_letters.selection import Choice, check_chosen
from oncecast.cli.entries import DEAD_LETTER
from oncecast.core.errors import ConfigError


class Clock:
    """A clock that only sleeping, or the test, moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_rate_is_events_a_second_a_minute_or_an_hour() -> None:
    assert [_per_s(text) for text in (None, "50/s", "50", "300/m", "0.5/s", "1800 / h")] == [
        None,
        50,
        50,
        5,
        0.5,
        0.5,
    ]
    for wrong in ("", "fast", "0/s", "-1/s", "5/d"):
        with pytest.raises(ConfigError, match="--rate"):
            _per_s(wrong)


def test_a_pace_keeps_its_rate_and_does_not_catch_up() -> None:
    clock = Clock()
    pace = Pace(5.0, clock=clock, sleep=clock.sleep)
    began = []
    for _ in range(3):
        pace.wait(pace.at_once)
        began.append(clock.now_s)
    assert (pace.at_once, began) == (5, [100.0, 101.0, 102.0])
    clock.now_s += 60.0  # a slow answer
    pace.wait(5)
    assert clock.now_s == 162.0
    pace.wait(5)
    assert clock.now_s == 163.0


def test_a_pace_below_one_per_second_sends_one_event_at_a_time() -> None:
    clock = Clock()
    pace = Pace(0.5, clock=clock, sleep=clock.sleep)
    pace.wait(pace.at_once)
    pace.wait(pace.at_once)
    assert (pace.at_once, clock.now_s) == (1, 102.0)


def result(outcome: str, number: int = 1) -> dict[str, str]:
    return {"id": f"e{number}", "source": "/s", "outcome": outcome, "error": "why"}


def test_a_run_reports_each_result_and_fails_unless_all_are_stored(capsys: pytest.CaptureFixture[str]) -> None:
    run = ReplayRun(4, as_json=False)
    run.note([result("stored"), result("failed", 2), result("not_dead", 3), result("unknown", 4)])
    assert run.end() == 1
    reported = capsys.readouterr()
    assert reported.out == "1 of 4 stored; 1 failed, 1 not dead, 1 unknown.\n"
    assert reported.err == "e2: failed: why\ne3: not dead: why\ne4: unknown: why\n"
    run = ReplayRun(1, as_json=False)
    run.note([result("stored")])
    assert (run.end(), capsys.readouterr().out) == (0, "1 of 1 stored.\n")


def test_some_of_many_failures_are_printed_and_all_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    run = ReplayRun(1000, as_json=False)
    run.note([result("failed", n) for n in range(1000)])
    assert run.end() == 1
    reported = capsys.readouterr()
    assert (reported.out, reported.err.count(": failed: "), reported.err.count("only counted")) == (
        "0 of 1,000 stored; 1,000 failed.\n",
        20,
        1,
    )


def test_a_run_that_is_interrupted_does_not_know_what_became_of_those_in_flight(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = ReplayRun(50, as_json=False)
    run.note([result("stored", n) for n in range(10)])
    run.stop("interrupted", 10)
    assert (run.end(), capsys.readouterr().out) == (130, "10 of 50 stored; 10 unknown, 30 not tried.\n")
    run = ReplayRun(50, as_json=True)
    run.stop("no answer", 1)
    assert run.end() == 1
    assert json.loads(capsys.readouterr().out) == {
        "asked": 50, "stored": 0, "failed": 0, "not_dead": 0, "unknown": 1, "stopped": "no answer",
    }  # fmt: skip


def test_nothing_to_replay_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert (ReplayRun(0, as_json=False).end(), capsys.readouterr().out) == (0, "There is no such dead letter.\n")


@pytest.mark.parametrize(
    ("answer", "is_yes"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_a_terminal_is_asked_before_many_are_discarded(
    answer: str, is_yes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    with nullcontext() if is_yes else pytest.raises(ConfigError, match="nothing is discarded"):
        DEAD_LETTER.confirm(12)
    assert capsys.readouterr().err == "Discard 12 dead letters? [y/N] "


def test_ids_or_flags_or_all_choose() -> None:
    with pytest.raises(ConfigError, match="name the ids to replay"):
        check_chosen("replay", (), Choice(), all=False)
    for ids, choice, all_ in (
        (("a",), Choice(), False),
        ((), Choice(), True),
        ((), Choice(type="t"), False),
        ((), Choice(source="/s"), False),
    ):
        check_chosen("replay", ids, choice, all=all_)
    with pytest.raises(ConfigError, match="not both"):
        check_chosen("replay", ("a",), Choice(), all=True)


def test_many_ids_are_asked_for_in_parts_and_each_once() -> None:
    selections = Choice(instance="listener-a").selections([f"e{n % 120}" for n in range(240)])
    assert [len(selection.ids) for selection in selections] == [50, 50, 20]
    assert {selection.listener for selection in selections} == {"listener-a"}


@pytest.mark.parametrize(
    ("choice", "flag"),
    [
        (Choice(since="yesterday"), "--since: 'yesterday' is invalid"),
        (Choice(until="2026-01-31"), "--until"),
        (Choice(instance=""), "--instance"),
        (Choice(error="x" * 513), "--error"),
        (Choice(cause="nonsense"), "--cause"),
    ],
)
def test_an_invalid_flag_is_named(choice: Choice, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        choice.selections()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": [1, 2]}\n', None),
        (b'{\n  "\xc3\xbc": }', "invalid character, line 2, column 8"),
        (b"{} x", "trailing characters, line 1, column 4"),
        (b'{"a": 1', "ends too early, line 1, column 8"),
        (b"", "ends too early, line 1, column 1"),
        (b'{"a":\n"\xff"}', "not UTF-8: line 2, column 2"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_json_is_reported_with_its_position(content: bytes, fault: str | None) -> None:
    reported = fault_of(content)
    assert reported is None if fault is None else reported is not None and fault in reported


def test_requests_grow_while_they_are_answered_soon() -> None:
    clock = Clock()
    pace = Pace(None, clock=clock, sleep=clock.sleep)
    sizes = []
    for took_s in (0.1, 0.1, 0.1, 0.1, 0.1, 5.0, 0.1):
        pace.wait(pace.at_once)
        sizes.append(pace.at_once)
        clock.sleep(took_s)
        pace.answered(took_s)
    assert sizes == [10, 20, 40, 80, 100, 100, 10]
