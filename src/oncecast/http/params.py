"""What callers put into queries and bodies, read and judged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from oncecast.http.problems import Problem

TEXT_MAX_LETTERS = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
BODY_DEADLINE_S = 60.0
BODY_MAX_BYTES = 1024 * 1024
StructT = TypeVar("StructT")


def whole_number(request: Request, name: str, *, default: int, maximum: int) -> int:
    """The query's `name`, from 1 to `maximum`; raises Problem 400."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
        raise Problem(400, f"{name} is a whole number from 1 to {maximum}")
    return int(text)


def texts(request: Request, names: Iterable[str]) -> dict[str, str | None]:
    """The query's texts of these names; raises Problem 400 for one that no event can have."""
    values = {name: request.query_params.get(name) for name in names}
    for name, value in values.items():
        if value is not None and not (0 < len(value) <= TEXT_MAX_LETTERS and _is_text(value)):
            raise Problem(400, f"{name} is 1 to {TEXT_MAX_LETTERS} characters long, without control characters")
    return values


async def body(request: Request) -> bytes:
    """The request's body; raises Problem 408 or 413."""
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > BODY_MAX_BYTES:
                    raise Problem(413, f"a request may have {BODY_MAX_BYTES} bytes here")
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_DEADLINE_S:.0f} s") from None
    return b"".join(chunks)


async def struct(request: Request, kind: type[StructT]) -> StructT:
    """The request's JSON body as `kind`; raises Problem 400, 413 or 422."""
    content = await body(request)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, f"the body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None


def _is_text(value: str) -> bool:
    if _CONTROL.search(value):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
