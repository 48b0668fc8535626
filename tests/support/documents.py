"""The code blocks of a document, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>run[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_HERE = re.compile(r"<<'(\w+)'\n.*?^\1$", re.M | re.S)
_ENDS = {"|", "||", "&&", ";", "&", "(", ")", ">", ">>", "<"}


class Block(NamedTuple):
    """One fenced block; `mark` is what the HTML comment before it says, if it begins with `run`."""

    mark: str
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """All of a document, in order."""
    return [Block(m["mark"] or "", m["language"], m["text"]) for m in _BLOCK.finditer(text)]


def typed(path: Path) -> Iterator[list[str]]:
    """The arguments of every `oncecast …` in the document's blocks of shell."""
    for block in blocks(path.read_text("utf-8")):
        if block.language == "sh":
            for line in _HERE.sub("", block.text).replace("\\\n", " ").splitlines():
                yield from _of_line(line)


def mentioned(path: Path) -> Iterator[list[str]]:
    """The arguments of every `oncecast …` in its running text: often only the name of a command."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8"))
    for line in re.findall(r"`((?:\.venv/bin/)?oncecast [^`]+)`", text):
        yield from _of_line(line)


def _of_line(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    found: list[str] | None = None
    begins = True
    for word in lexer:
        if word in _ENDS or found is None:
            if found is not None:
                yield found
            found = [] if begins and word in ("oncecast", ".venv/bin/oncecast") else None
            begins = word in _ENDS or (begins and "=" in word)  # variables may stand before the command
        else:
            found.append(word)
    if found is not None:
        yield found
