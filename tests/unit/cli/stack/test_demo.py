"""The demo is slow enough to be watched, and loses nothing of its file."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from oncecast.cli.stack.demo import _paced


async def test_events_go_out_at_the_rate_that_is_asked_for() -> None:
    async def lines() -> AsyncIterator[tuple[Sequence[bytes], Sequence[int]]]:
        for begin in (0, 60):
            yield [b"%d" % n for n in range(begin, begin + 60)], range(begin, begin + 60)

    sent: list[tuple[bytes, int]] = []
    began_s = time.monotonic()
    async for events, numbers in _paced(lines(), 400, lambda _sent, _of: None):
        sent += zip(events, numbers, strict=True)
    assert sent == [(b"%d" % n, n) for n in range(120)]
    assert time.monotonic() - began_s >= 120 / 400
