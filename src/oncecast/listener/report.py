"""Totals of a listener since its start, counted from its facts on their way to the observer."""

from __future__ import annotations

from oncecast.core.facts import Died, Duplicates, Fact, Observe, Persisted, Received


class Tally:
    """Counts events by what became of them, and passes every fact on."""

    def __init__(self, observe: Observe) -> None:
        self.received = 0
        self.stored = 0
        self.duplicates = 0
        self.dead = 0
        self._observe = observe

    def observe(self, fact: Fact) -> None:
        """Count one fact."""
        match fact:
            case Received():
                self.received += fact.count
            case Persisted():
                self.stored += fact.count
            case Duplicates():
                self.duplicates += fact.count
            case Died():
                self.dead += 1
        self._observe(fact)
