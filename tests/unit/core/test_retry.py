"""Back-off is a pure function of the attempt's number."""

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.retry import Backoff, jittered

BACKOFF = Backoff(base_s=1, max_s=30)


def test_backoff_doubles_from_the_base_up_to_the_maximum() -> None:
    waits = [BACKOFF.delay_s(n, jitter=0) for n in range(2, 9)]
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@given(st.integers(2, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_shortens_the_delay_by_at_most_half(attempt: int, jitter: float) -> None:
    whole = BACKOFF.delay_s(attempt, jitter=0)
    assert whole / 2 <= BACKOFF.delay_s(attempt, jitter) <= whole


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_moves_an_interval_by_a_fifth_at_most(jitter: float) -> None:
    assert 8.0 <= jittered(10.0, jitter) <= 12.0
