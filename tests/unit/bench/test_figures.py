"""A figure has the median of its runs, and its share of what it is compared with in the same runs."""

from __future__ import annotations

from oncecast.bench.figures import COLUMNS, Figure
from oncecast.bench.system import event


def test_the_share_is_the_median_of_the_ratios_of_each_run() -> None:
    figure = Figure("end to end", "events/s", values=[30.0, 10.0, 20.0], compared=[40.0, 40.0, 20.0])
    assert (figure.median, figure.share) == (20.0, 0.75)
    assert Figure("latency", "ms", values=[1.0]).share is None


def test_a_row_has_a_cell_for_each_column() -> None:
    figure = Figure("end to end", "events/s", [1234.5, 1000.0], [2000.0, 2000.0], {"send": 1.25}, {"producer": 90.4})
    row = figure.row()
    assert len(row) == len(COLUMNS)
    assert row == ("end to end", "1,117 events/s", "1,000 to 1,234", "0.56", "send 1.2", "producer 90")


def test_an_event_has_exactly_the_size_that_is_measured() -> None:
    assert [len(event("/240/0", n, size)) for n in (0, 999_999) for size in (240, 2_048, 20_480)] == [
        240,
        2_048,
        20_480,
    ] * 2
