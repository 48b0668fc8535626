"""Pages of lists, newest first: a mark names the last entry of a page, after which the next begins."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Any

import msgspec

from oncecast.core.errors import InvalidPageMark
from oncecast.stores.postgres.database import rfc3339


def mark_of(at: datetime, source: str, id: str) -> str:
    """Return the page mark of an entry."""
    return urlsafe_b64encode(msgspec.json.encode([rfc3339(at), source, id])).decode()


def behind(mark: str | None) -> dict[str, Any]:
    """Return the parameters of a list that begins after `mark`, or at the newest entry. Raises InvalidPageMark."""
    if mark is None:
        return {"before_at": None, "before_source": None, "before_id": None}
    try:
        at, source, id_ = msgspec.json.decode(urlsafe_b64decode(mark), type=tuple[datetime, str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidPageMark("not the mark of a page") from error
    if at.tzinfo is None or "\0" in source + id_:
        raise InvalidPageMark("not the mark of a page")
    return {"before_at": at, "before_source": source, "before_id": id_}
