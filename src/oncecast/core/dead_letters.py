"""Select dead letters, for the command, the API and the stores alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from oncecast.core.durations import duration_s

IDS_MAX = 100
TEXT_MAX_CHARS = 512
CAUSE_CHARS = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CAUSE = re.compile(rf"[0-9a-f]{{{CAUSE_CHARS}}}")
_AGE = re.compile(r"[0-9].*[a-z]")
_AwareTime = Annotated[datetime, Meta(tz=True)]

# The schemas of texts are for the documents of the HTTP API; `Selection.at` checks the values.
TEXT_SCHEMA = {"minLength": 1, "maxLength": TEXT_MAX_CHARS, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}
ShortText = Annotated[str, Meta(extra_json_schema=TEXT_SCHEMA)]
CauseName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{_CAUSE.pattern}$"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
_RFC3339 = (
    r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"
)
_Moment = Annotated[str, Meta(extra_json_schema={"pattern": f"^([0-9]{{1,5}}(ms|s|m|h|d)|{_RFC3339})$"})]


class Identity(NamedTuple):
    """The identity of an event."""

    source: str
    id: str


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A filter for dead letters: all given conditions must hold. Without any, it selects all."""

    ids: Annotated[
        tuple[ShortText, ...],
        Meta(description="Only events with one of these ids.", extra_json_schema={"maxItems": IDS_MAX}),
    ] = ()
    type: Annotated[
        ShortText | None, Meta(description="Only events of this type; `order.*` selects all types with this prefix.")
    ] = None
    source: Annotated[ShortText | None, Meta(description="Only events of this source.")] = None
    error: Annotated[
        ShortText | None,
        Meta(description="Only dead letters whose error contains this text, in upper or lower case."),
    ] = None
    cause: Annotated[
        CauseName | None, Meta(description="Only dead letters of this cause, as `/api/dead-letter-causes` names it.")
    ] = None
    listener: Annotated[ShortText | None, Meta(description="Only events that died at this listener.")] = None
    since: Annotated[
        _Moment | None, Meta(description="Only events that died at or after this time (RFC 3339) or age (`2h`).")
    ] = None
    until: Annotated[_Moment | None, Meta(description="Only events that died before this time or age.")] = None
    discarded: Annotated[bool | None, Meta(description="Discarded dead letters instead of the others.")] = False

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
