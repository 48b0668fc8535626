"""Leases: who has which event, and when the death of an owner counts against an event."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oncecast.core.lease_owners import QUARANTINE_AFTER_TAKEOVERS
from oncecast.core.leases import Claims, LeaseState, partition, takeovers_after
from tests.support.arrivals import arrivals

OWN, OTHER = "own", "other"


def test_each_event_is_in_the_list_of_its_lease_state() -> None:
    nobodys, own, others, given_up, ended, elsewhere = batch = arrivals(6)
    found = [None, LeaseState(OWN, 0), LeaseState(OTHER, 0), LeaseState(None, 1), ended.cursor, "e9:1"]
    claims = partition(batch, found, OWN)
    assert claims == Claims(
        mine=[own],
        taken=[(others, OTHER)],
        ended=[ended],
        elsewhere=[elsewhere],
        free=[nobodys, given_up],
        takeovers=[(given_up, 1)],
    )


def test_only_a_count_that_differs_from_the_arrival_is_reported() -> None:
    known, less, none = batch = arrivals(3, takeovers=2)
    claims = partition(batch, [LeaseState(OWN, 2), LeaseState(OTHER, 1), None], OWN)
    assert claims.takeovers == [(less, 1)]
    assert [arrival.takeovers for arrival in (known, less, none)] == [2, 2, 2]


def test_the_results_of_two_calls_are_added_list_by_list() -> None:
    names = [field.name for field in dataclasses.fields(Claims)]
    lists: dict[str, Any] = {name: [name] for name in names}
    claims = Claims(**lists)
    lists = {name: [f"more {name}"] for name in names}
    claims.add(Claims(**lists))
    assert dataclasses.asdict(claims) == {name: [name, f"more {name}"] for name in names}


def test_a_claim_leases_the_free_events() -> None:
    batch = arrivals(2)
    claims = partition(batch, [LeaseState(OWN, 0), None], OWN)
    claims.lease_free()
    assert (claims.mine, claims.free) == (batch, [])


@pytest.mark.parametrize("takeovers", range(QUARANTINE_AFTER_TAKEOVERS))
def test_a_death_is_charged_to_every_event_that_the_process_had(takeovers: int) -> None:
    assert takeovers_after(takeovers, died=True, ran_alone=False) == takeovers + 1


@pytest.mark.parametrize("takeovers", [QUARANTINE_AFTER_TAKEOVERS, QUARANTINE_AFTER_TAKEOVERS + 3])
def test_a_quarantined_event_is_charged_only_with_a_death_while_it_ran_alone(takeovers: int) -> None:
    assert takeovers_after(takeovers, died=True, ran_alone=True) == takeovers + 1
    assert takeovers_after(takeovers, died=True, ran_alone=False) == takeovers


@pytest.mark.parametrize("ran_alone", [False, True])
def test_a_process_that_may_live_charges_nothing(ran_alone: bool) -> None:
    assert takeovers_after(5, died=False, ran_alone=ran_alone) == 5
