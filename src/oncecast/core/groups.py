"""Names of groups. The group's schema in PostgreSQL has the same name."""

from __future__ import annotations

import re

FIRST_TO_JOIN = "first-to-join"
"""Means in a list of groups: keep events for the first group that joins. No group can have this name."""
ANY_GROUP = "*"
"""In place of a group's name: a token for every group."""
_GROUP = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def is_group_name(text: str) -> bool:
    """Return whether a group can have this name."""
    return _GROUP.fullmatch(text) is not None
