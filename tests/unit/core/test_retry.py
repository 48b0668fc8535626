"""Back-off is a pure function of the attempt's number."""

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.retry import backoff


def test_backoff_doubles_from_the_base_up_to_the_maximum() -> None:
    waits = [backoff(n, base_s=1, max_s=30, jitter=0) for n in range(2, 9)]
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@given(st.integers(2, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_half_of_the_wait_away(attempt: int, jitter: float) -> None:
    whole = backoff(attempt, base_s=1, max_s=30, jitter=0)
    assert whole / 2 <= backoff(attempt, base_s=1, max_s=30, jitter=jitter) <= whole
