"""Names of groups: who shares the work of one application, and its schema in PostgreSQL."""

from __future__ import annotations

import re

FIRST_TO_JOIN = "first-to-join"
"""Stands for a group in lists: events are kept for whichever joins first. No group can have this name."""
ANY_GROUP = "*"
"""In place of a group's name: a token for it is good for every group."""
_GROUP = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def is_group_name(text: str) -> bool:
    """Whether a group can have this name."""
    return _GROUP.fullmatch(text) is not None
