"""Leases: who has which range."""

from __future__ import annotations

import dataclasses
from typing import Any

from oncecast.core.leases import DONE, Claims, LeaseState, partition
from tests.support.arrivals import ranges

OWN, OTHER = "own", "other"


def test_each_range_is_in_the_list_of_its_lease_state() -> None:
    nobodys, own, others, given_up, ended = batch = ranges(5)
    found = [None, LeaseState(OWN, 0), LeaseState(OTHER, 0), LeaseState(None, 1), DONE]
    assert partition(batch, found, OWN) == Claims(
        acquired=[own],
        leased_elsewhere=[(others, OTHER)],
        ended=[ended],
        free=[nobodys, given_up],
        takeovers=[(given_up, 1)],
    )


def test_only_a_count_that_differs_from_the_range_is_reported() -> None:
    known, less, none = batch = ranges(3, takeovers=2)
    claims = partition(batch, [LeaseState(OWN, 2), LeaseState(OTHER, 1), None], OWN)
    assert claims.takeovers == [(less, 1)]
    assert [each.takeovers for each in (known, less, none)] == [2, 2, 2]


def test_the_results_of_two_calls_are_added_list_by_list() -> None:
    names = [field.name for field in dataclasses.fields(Claims)]
    lists: dict[str, Any] = {name: [name] for name in names}
    claims = Claims(**lists)
    lists = {name: [f"more {name}"] for name in names}
    claims.add(Claims(**lists))
    assert dataclasses.asdict(claims) == {name: [name, f"more {name}"] for name in names}


def test_a_claim_leases_the_free_ranges() -> None:
    batch = ranges(2)
    claims = partition(batch, [LeaseState(OWN, 0), None], OWN)
    claims.lease_free()
    assert (claims.acquired, claims.free) == (batch, [])
