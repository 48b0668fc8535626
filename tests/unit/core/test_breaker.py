"""The breaker stops calls to a dependency that is down, and lets one probe at a time pass."""

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.breaker import Breaker, BreakerState


def test_it_opens_after_threshold_failures_in_a_row_and_reports_it_once() -> None:
    breaker = Breaker(threshold=3, probe_interval_s=1)
    assert [breaker.failed(0), breaker.failed(0)] == [False, False]
    assert breaker.allows(0)
    assert breaker.failed(0)
    assert not breaker.allows(0)
    assert not breaker.failed(0)


def test_a_success_between_failures_resets_the_count() -> None:
    breaker = Breaker(threshold=2, probe_interval_s=1)
    breaker.failed(0)
    breaker.succeeded()
    assert not breaker.failed(0)
    assert breaker.is_closed


def test_a_due_probe_passes_alone_and_its_success_closes_the_breaker() -> None:
    breaker = Breaker(threshold=1, probe_interval_s=1)
    breaker.failed(0)
    assert not breaker.allows(0.9)
    assert breaker.allows(1)
    assert not breaker.allows(1)
    assert breaker.succeeded()
    assert breaker.allows(1)


def test_a_failed_probe_keeps_it_open_for_another_interval() -> None:
    breaker = Breaker(threshold=1, probe_interval_s=1)
    breaker.failed(0)
    breaker.allows(1)
    assert not breaker.failed(1.5)
    assert not breaker.allows(2.4)
    assert breaker.allows(2.5)


@given(st.lists(st.sampled_from(["fail", "succeed", "ask"]), max_size=60))
def test_it_allows_every_call_exactly_while_it_is_closed(steps: list[str]) -> None:
    breaker, now_s = Breaker(threshold=3, probe_interval_s=10), 0.0
    for step in steps:
        now_s += 1
        if step == "fail":
            breaker.failed(now_s)
        elif step == "succeed":
            breaker.succeeded()
        else:
            asked_closed = breaker.is_closed
            if breaker.allows(now_s) and not asked_closed:
                assert breaker.state is BreakerState.HALF_OPEN
        assert breaker.is_closed == (breaker.state is BreakerState.CLOSED)
