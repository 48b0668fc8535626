"""Decide which application is a group's newest; every event store uses this function.

A store reads the newest record of the group's handlers, and writes a new record if the decision says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Registration(NamedTuple):
    """The newest record of the group's handlers is `revision`; the caller lacks its handlers `missing`."""

    revision: int
    missing: frozenset[str]
    is_new: bool
    """Whether the caller's handlers become this record: the store writes it."""


def decide_registration(
    revision: int, newest: frozenset[str], selectors: frozenset[str], *, force: bool
) -> Registration:
    """Decide whether the handlers `selectors` become the newest record; `revision` is 0 while there is none.

    They do if they include all of `newest` and more, or with `force` if they differ from it.
    """
    missing = newest - selectors
    if not revision or (selectors != newest and (force or not missing)):
        return Registration(revision + 1, frozenset(), is_new=True)
    return Registration(revision, missing, is_new=False)
