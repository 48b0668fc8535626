"""What a check has found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "error"]


class Diagnosis(msgspec.Struct, frozen=True):
    """The result of one check; `remedy` says what to do about a warning or an error."""

    what: str
    verdict: Verdict
    detail: str
    remedy: str = ""


Diagnoses = Iterator[Diagnosis]


def judged(what: str, is_fine: bool, detail: str, remedy: str, *, otherwise: Verdict = "error") -> Diagnosis:
    """Return a finding that is ok, or else has the remedy."""
    return Diagnosis(what, "ok", detail) if is_fine else Diagnosis(what, otherwise, detail, remedy)
