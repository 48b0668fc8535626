"""Group errors by cause: the text that is left without numbers and ids.

PostgreSQL has the same two functions since migration 0005; the conformance suite compares them with these.
"""

from __future__ import annotations

import re
from hashlib import sha256

from oncecast.core.dead_letters import CAUSE_CHARS

_VALUE = re.compile(r"""=('[^']*'|"[^"]*"|\([^)]*\))""")
_WITH_DIGIT = re.compile(r"[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*([.:,][A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*)*")
_SPACE = re.compile(r"[ \t\r\n\f\v]+")


def error_pattern(error: str) -> str:
    """Return `error` with `#` in place of numbers, ids and values."""
    return _SPACE.sub(" ", _WITH_DIGIT.sub("#", _VALUE.sub("=#", error[:1000])))[:200]


def cause_of(error: str) -> str:
    """Return the short name of the cause of `error`."""
    return sha256(error_pattern(error).encode()).hexdigest()[:CAUSE_CHARS]
