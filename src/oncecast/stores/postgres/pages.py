"""Lists in pages, newest first: a mark names the last entry of a page, behind which the next begins."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Any

import msgspec

from oncecast.core.errors import InvalidPageMark
from oncecast.stores.postgres.database import rfc3339


def mark_of(at: datetime, source: str, id: str) -> str:
    """The mark of an entry."""
    return urlsafe_b64encode(msgspec.json.encode([rfc3339(at), source, id])).decode()


def behind(mark: str | None) -> dict[str, Any]:
    """The parameters that begin a list behind `mark`, or at its newest; raises InvalidPageMark."""
    if mark is None:
        return {"before_at": None, "before_source": None, "before_id": None}
    try:
        at, source, id_ = msgspec.json.decode(urlsafe_b64decode(mark), type=tuple[datetime, str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidPageMark("no mark of a page") from error
    if at.tzinfo is None or "\0" in source + id_:
        raise InvalidPageMark("no mark of a page")
    return {"before_at": at, "before_source": source, "before_id": id_}
