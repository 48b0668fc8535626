"""Which application is a group's newest: a decision that every event store takes alike.

A store reads the newest record of a group's handlers, asks here, and writes a new record if that is the answer.
"""

from __future__ import annotations

from typing import NamedTuple


class Registration(NamedTuple):
    """The newest record of the group's handlers is `revision`; `missing` are those of them that the caller lacks."""

    revision: int
    missing: frozenset[str]
    is_new: bool
    """Whether the caller's handlers become this record: the store writes it."""


def decide_registration(
    revision: int, newest: frozenset[str], selectors: frozenset[str], *, force: bool
) -> Registration:
    """Decide what becomes of a listener with the handlers `selectors`; `revision` is 0 while nothing is recorded.

    They become the newest record if they have all that the newest so far has, and more; with `force`, whatever that
    has.
    """
    missing = newest - selectors
    if not revision or (selectors != newest and (force or not missing)):
        return Registration(revision + 1, frozenset(), is_new=True)
    return Registration(revision, missing, is_new=False)
