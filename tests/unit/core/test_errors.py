"""Errors of handlers can be passed from one process to another unchanged."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

import oncecast
from oncecast import DataInvalid, NotAcknowledged, PublishRefused, Reject, Retry

MADE = {
    Retry: Retry("the bank is closed", after="2m"),
    NotAcknowledged: NotAcknowledged("full", deadline_s=2.0, accepted=1),
    PublishRefused: PublishRefused("no", status=422, position=3, event_id="e3", accepted=2),
}


class SoldOut(Retry):
    """An application's own, with what it needs to know."""

    def __init__(self, *, sku: str) -> None:
        super().__init__(f"{sku} is sold out", after=timedelta(seconds=30))
        self.sku = sku


PUBLIC = [getattr(oncecast, name) for name in oncecast.__all__]


@pytest.mark.parametrize("kind", [kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, Exception)])
def test_every_public_error_can_be_pickled(kind: type[Exception]) -> None:
    error = MADE.get(kind) or (kind() if kind is oncecast.PublisherClosed else kind("a reason"))
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.args, vars(twin)) == (kind, str(error), error.args, vars(error))


@pytest.mark.parametrize("error", [SoldOut(sku="a"), Retry(after=3), DataInvalid("$.sku: missing"), Reject("no")])
def test_a_pickled_error_keeps_its_attributes(error: Exception) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
