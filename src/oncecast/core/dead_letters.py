"""Select dead letters, for the command, the API and the stores alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec

from oncecast.core.durations import duration_s

IDS_MAX = 100
TEXT_MAX_CHARS = 512
CAUSE_CHARS = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CAUSE = re.compile(rf"[0-9a-f]{{{CAUSE_CHARS}}}")
_AGE = re.compile(r"[0-9].*[a-z]")
_AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]


class Identity(NamedTuple):
    """The identity of an event."""

    source: str
    id: str


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A filter for dead letters: all given conditions must hold. Without any, it selects all."""

    ids: tuple[str, ...] = ()
    """The id is one of these, if any are given."""
    type: str | None = None
    """The event's type, or a prefix: `order.*`."""
    source: str | None = None
    error: str | None = None
    """A part of the error's text; upper and lower case are the same."""
    cause: str | None = None
    """The short name of a cause, as `DeadLetters.causes` returns it."""
    listener: str | None = None
    """The listener that gave up on the event."""
    since: str | None = None
    """Died at or after this time (RFC 3339), or at most this age ago (`2h`)."""
    until: str | None = None
    """Died before this time, or longer ago than this age."""
    discarded: bool | None = False
    """Whether it was discarded; None selects both."""

    @property
    def type_prefix(self) -> str | None:
        """The prefix of the type, if `type` is a pattern."""
        return self.type[:-1] if self.type is not None and self.type.endswith("*") else None

    def at(self, now: datetime) -> Selection:
        """Return this selection with ages converted to times before `now`.

        Raises ValueError that begins with the name of the invalid field.
        """
        if len(self.ids) > IDS_MAX:
            raise ValueError(f"ids: {len(self.ids)} are too many; give at most {IDS_MAX}")
        for name in ("type", "source", "error", "cause", "listener"):
            _check(name, getattr(self, name))
        for id_ in self.ids:
            _check("id", id_)
        if self.cause is not None and not _CAUSE.fullmatch(self.cause):
            raise ValueError(
                f"cause: {self.cause[:40]!r} is invalid; expected {CAUSE_CHARS} characters such as 0f1e2d3c4b"
            )
        times = {name: _moment(name, getattr(self, name), now) for name in ("since", "until")}
        return msgspec.structs.replace(self, **times)


def _check(name: str, text: str | None) -> None:
    if text is None:
        return
    if not 0 < len(text) <= TEXT_MAX_CHARS or _CONTROL.search(text) or not _is_unicode(text):
        raise ValueError(f"{name}: expected 1 to {TEXT_MAX_CHARS} characters, without control characters")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(name: str, text: str | None, now: datetime) -> str | None:
    """Return a time as RFC 3339 in UTC; an age is subtracted from `now`."""
    if text is None:
        return None
    try:
        if _AGE.fullmatch(text):
            at = now - timedelta(seconds=duration_s(text))
        else:
            at = msgspec.convert(text, _AwareTime).astimezone(UTC)
    except (ValueError, msgspec.ValidationError, OverflowError):
        expected = "a time such as 2026-01-31T12:00:00Z, or an age such as 2h"
        raise ValueError(f"{name}: {text[:40]!r} is invalid; expected {expected}") from None
    return at.isoformat().replace("+00:00", "Z")
