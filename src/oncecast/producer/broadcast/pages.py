"""Pages of events that are being read or sent; a limit bounds their total size, because clients may be slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 64 * 1024
"""The size of one write; unwritten bytes still count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """The limits of pages of events."""

    max_bytes: int = 4 * 1024 * 1024
    min_bytes: int = 64 * 1024
    """The size that every page may have, or one larger event."""
    all_max_bytes: int = 64 * 1024 * 1024
    """The total size of unsent pages; beyond it, further pages are small."""


class Pages:
    """The pages that a producer is reading or sending."""

    def __init__(self, limits: PageLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

    @contextmanager
    def reserved(self) -> Iterator[int]:
        """Reserve room for a page while it is read; yields its maximum size in bytes."""
        limits = self._limits
        free_bytes = limits.all_max_bytes - self.held_bytes
        size_bytes = max(limits.min_bytes, min(limits.max_bytes, free_bytes))
        self.held_bytes += size_bytes
        try:
            yield size_bytes
        finally:
            self.held_bytes -= size_bytes

    def answer(self, content: bytes) -> Response:
        """Return the response with a page's JSON, which must be sent."""
        return _Page(content, self)


class _Page(Response):
    """A response in chunks; each is written when the client has received the previous ones."""

    media_type = "application/json"

    def __init__(self, content: bytes, pages: Pages) -> None:
        super().__init__(content)
        self._pages = pages
        pages.held_bytes += len(content)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the page; stop if the client has left."""
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
    """Return how many of the first `events` fit, with a comma after each."""
    for count, event in enumerate(events):
        room_bytes -= len(event) + 1
        if room_bytes < 0:
            return count
    return len(events)
