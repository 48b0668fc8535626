"""Figures: what was measured, in several runs, and what it is compared with in the same runs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Figure:
    """The values of one measurement, one per run; `compared` are those of the same work without Oncecast."""

    what: str
    unit: str
    values: list[float] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)
    cpu_us: dict[str, float] = field(default_factory=dict)
    """CPU time per event of each process in the last run, in µs."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """The most memory of each process in the last run, in MiB."""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.values)

    @property
    def share(self) -> float | None:
        """The median of the ratios to what it is compared with, each of one run; None without a comparison."""
        if not self.compared:
            return None
        return statistics.median(value / other for value, other in zip(self.values, self.compared, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return the figure for JSON."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "share": self.share,
            "runs": self.values,
            "compared": self.compared,
            "cpu_us": self.cpu_us,
            "peak_mib": self.peak_mib,
        }

    def row(self) -> tuple[object, ...]:
        """Return the figure for a table; see COLUMNS."""
        spread = f"{_number(min(self.values))} to {_number(max(self.values))}" if len(self.values) > 1 else ""
        return (
            self.what,
            f"{_number(self.median)} {self.unit}",
            spread,
            "" if self.share is None else f"{self.share:.2f}",
            ", ".join(f"{name} {us:.1f}" for name, us in self.cpu_us.items()),
            ", ".join(f"{name} {mib:.0f}" for name, mib in self.peak_mib.items()),
        )


COLUMNS = ("measured", "median", "range", "share", "CPU, µs an event", "peak memory, MiB")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
