"""Logs tell; they decide nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from oncecast.core.facts import DependencyReady
from oncecast.observe.logs import log_facts


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("format", ["console", "json"])
def test_a_full_disk_under_the_log_stops_nobody(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", _Text(full))
        observe = log_facts("here", format=format)
        observe(DependencyReady("redis"))


async def test_what_is_said_in_a_turn_of_the_loop_goes_out_at_once_before_anything_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    observe = log_facts("here")
    observe(DependencyReady("redis"))
    observe(DependencyReady("database"))
    await asyncio.sleep(0)
    assert written == ["✅ Redis ready in here\n✅ PostgreSQL ready in here\n"]


class _Text:
    def __init__(self, raw: object) -> None:
        self._raw = raw

    def write(self, text: str) -> None:
        self._raw.write(text.encode())  # type: ignore[attr-defined]

    def flush(self) -> None:
        """Nothing is kept back."""
