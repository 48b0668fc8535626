"""Pages of events on their way to clients, who may be slow to take them: all of them together have a bound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 64 * 1024
"""Written at a time: what is not written yet is still counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """How large a page of events may be."""

    max_bytes: int = 4 * 1024 * 1024
    min_bytes: int = 64 * 1024
    """What a page may have in any case, or one larger event."""
    all_max_bytes: int = 64 * 1024 * 1024
    """What all pages may have that clients have not taken yet; beyond, further pages are small."""


class Pages:
    """The pages of a producer that are being read or sent."""

    def __init__(self, limits: PageLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

    @contextmanager
    def reserved(self) -> Iterator[int]:
        """Reserve room for a page while it is read; yields how many bytes it may have."""
        limits = self._limits
        free_bytes = limits.all_max_bytes - self.held_bytes
        size_bytes = max(limits.min_bytes, min(limits.max_bytes, free_bytes))
        self.held_bytes += size_bytes
        try:
            yield size_bytes
        finally:
            self.held_bytes -= size_bytes

    def answer(self, content: bytes) -> Response:
        """Return the response with a page's JSON; it has to be sent."""
        return _Page(content, self)


class _Page(Response):
    """A response that is written in chunks, each when the client has taken those before."""

    media_type = "application/json"

    def __init__(self, content: bytes, pages: Pages) -> None:
        super().__init__(content)
        self._pages = pages
        pages.held_bytes += len(content)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; where the client has left, that ends at once."""
        size_bytes = len(self.body)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, size_bytes, CHUNK_BYTES):
                end = begin + CHUNK_BYTES
                chunk = bytes(self.body[begin:end])
                await send({"type": "http.response.body", "body": chunk, "more_body": end < size_bytes})
        finally:
            self._pages.held_bytes -= size_bytes


def fitting(events: list[msgspec.Raw], room_bytes: int) -> int:
    """Return how many of `events`, from the first on, have room; one more byte goes to the comma behind each."""
    for count, event in enumerate(events):
        room_bytes -= len(event) + 1
        if room_bytes < 0:
            return count
    return len(events)
