"""Read and check query parameters and bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from oncecast.http.body import read_body
from oncecast.http.problems import Problem

TEXT_MAX_CHARS = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
BODY_MAX_BYTES = 1024 * 1024
StructT = TypeVar("StructT")


def client_of(request: Request) -> str:
    """Return the client's address, for the log."""
    return request.client.host if request.client else ""


def whole_number(request: Request, name: str, *, default: int, maximum: int) -> int:
    """Return the query parameter `name`, from 1 to `maximum`; raises Problem 400."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
        raise Problem(400, f"invalid {name}: expected a whole number from 1 to {maximum}")
    return int(text)


def texts(request: Request, names: Iterable[str]) -> dict[str, str | None]:
    """Return the query parameters `names`; raises Problem 400 for a value that no event can have."""
    values = {name: request.query_params.get(name) for name in names}
    for name, value in values.items():
        if value is not None and not (0 < len(value) <= TEXT_MAX_CHARS and _is_text(value)):
            raise Problem(
                400, f"invalid {name}: expected 1 to {TEXT_MAX_CHARS} characters without control characters"
            )
    return values


async def body(request: Request) -> bytes:
    """Return the request's body; raises Problem 400, 408 or 413."""
    return await read_body(request.receive, max_bytes=BODY_MAX_BYTES, hint=" here")


async def struct(request: Request, kind: type[StructT]) -> StructT:
    """Return the request's JSON body as `kind`; raises Problem 400, 408, 413 or 422."""
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
