"""Which dead letters: one value says it for the command, the API and the stores."""

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
    """What names one event."""

    source: str
    id: str


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Dead letters of which everything holds that is given; all of them where nothing is."""

    ids: tuple[str, ...] = ()
    """One of these, if there are any."""
    type: str | None = None
    """The event's type, or how it begins: `order.*`."""
    source: str | None = None
    error: str | None = None
    """A part of the error's text, however it is spelled: capitals do not count."""
    cause: str | None = None
    """What the errors of one cause have in common: see `DeadLetters.causes`."""
    listener: str | None = None
    """Where it died."""
    since: str | None = None
    """Not dead before this time (RFC 3339), or for no longer than this age (`2h`)."""
    until: str | None = None
    """Dead before this time, or for longer than this age."""
    discarded: bool | None = False
    """Whether it was discarded; None: either."""

    @property
    def type_prefix(self) -> str | None:
        """How the type begins, if that is what is asked for."""
        return self.type[:-1] if self.type is not None and self.type.endswith("*") else None

    def at(self, now: datetime) -> Selection:
        """The same, with ages told as times before `now`.

        Raises ValueError, which begins with the name of what will not do.
        """
        if len(self.ids) > IDS_MAX:
            raise ValueError(f"ids: {len(self.ids)} are too many; at most {IDS_MAX} can be asked for at once")
        for name in ("type", "source", "error", "cause", "listener"):
            _check(name, getattr(self, name))
        for id_ in self.ids:
            _check("id", id_)
        if self.cause is not None and not _CAUSE.fullmatch(self.cause):
            raise ValueError(f"cause: {self.cause[:40]!r} is none; it is {CAUSE_CHARS} letters such as 0f1e2d3c4b")
        times = {name: _moment(name, getattr(self, name), now) for name in ("since", "until")}
        return msgspec.structs.replace(self, **times)


def _check(name: str, text: str | None) -> None:
    if text is None:
        return
    if not 0 < len(text) <= TEXT_MAX_CHARS or _CONTROL.search(text) or not _is_unicode(text):
        raise ValueError(f"{name}: it is 1 to {TEXT_MAX_CHARS} characters long, without control characters")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(name: str, text: str | None, now: datetime) -> str | None:
    """A time as RFC 3339 in UTC; an age is taken off `now`."""
    if text is None:
        return None
    try:
        if _AGE.fullmatch(text):
            at = now - timedelta(seconds=duration_s(text))
        else:
            at = msgspec.convert(text, _AwareTime).astimezone(UTC)
    except (ValueError, msgspec.ValidationError, OverflowError):
        will_do = "a time such as 2026-01-31T12:00:00Z, or an age such as 2h"
        raise ValueError(f"{name}: {text[:40]!r} will not do; it takes {will_do}") from None
    return at.isoformat().replace("+00:00", "Z")
