from __future__ import annotations

import pytest

from oncecast.cli import output


def test_json_is_printed_without_a_terminal_unless_a_flag_says_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the output is JSON; the flag decides over that."""
    assert output.wants_json(None)
    assert not output.wants_json(False)
    assert output.wants_json(True)


def test_an_error_is_one_line_on_stderr_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the message holds, it is one line, and moves no cursor of the terminal."""
    assert output.error("no such\nfile \x1b[31m") == 1
    captured = capsys.readouterr()
    assert captured.err == "oncecast: no such file \N{REPLACEMENT CHARACTER}[31m\n"
    assert captured.out == ""


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers have their thousands parted, nothing is a dash, and markup is shown, not obeyed."""
    output.table("Stack", ["name", "events"], [["producer", 1234567], ["[red]x", None]])
    text = capsys.readouterr().out
    assert "Stack" in text
    assert "1,234,567" in text
    assert "[red]x" in text
    assert "–" in text
