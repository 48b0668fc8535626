"""Read the body of a request, up to a size and not slower than a minimum rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive

from oncecast.http.problems import Problem

GRACE_S = 10.0
RATE_MIN_BYTES_S = 16 * 1024
"""A body may take `grace_s`, and one second more for each `RATE_MIN_BYTES_S` received."""


def _nothing(_count: int) -> None:
    """Ignore the count."""


async def read_body(
    receive: Receive,
    *,
    max_bytes: int,
    hint: str = "",
    take: Callable[[int], None] = _nothing,
    grace_s: float = GRACE_S,
) -> bytes:
    """Return the body. Calls `take(count)` with the size of each received chunk; it may raise Problem.

    Raises Problem 400 if the client left, 408 if it is too slow, 413 (with `hint`) beyond `max_bytes`.
    """
    begun_s = asyncio.get_running_loop().time()
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout_at(begun_s + grace_s + len(body) / RATE_MIN_BYTES_S):
                message = await receive()
        except TimeoutError:
            raise Problem(408, f"the body arrived too slowly: {len(body)} bytes in over {grace_s:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise Problem(400, "the request ended before its body did")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > max_bytes:
            raise too_large(max_bytes, hint)
        take(len(chunk))
        if not message.get("more_body"):
            return bytes(body + chunk) if body else chunk
        body += chunk


def too_large(max_bytes: int, hint: str = "") -> Problem:
    """Return the refusal of a body that is too large."""
    return Problem(413, f"a request may have at most {max_bytes} bytes" + hint)
