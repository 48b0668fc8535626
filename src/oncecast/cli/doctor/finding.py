"""What a check has found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """The result of one check; `remedy` says what to do about a warning or an error."""

    what: str
    verdict: Verdict
    detail: str
    remedy: str = ""


Findings = Iterator[Finding]


def judged(what: str, is_fine: bool, detail: str, remedy: str, *, otherwise: Verdict = "error") -> Finding:
    """Return a finding that is ok, or else has the remedy."""
    return Finding(what, "ok", detail) if is_fine else Finding(what, otherwise, detail, remedy)
