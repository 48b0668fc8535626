"""The judge: from what publishers know and what PostgreSQL shows, whether anything was lost, doubled or invented.

Pure. The type of an event stands before the colon of its id, and says how it may end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields

MAY_BE_STORED = frozenset(("tick", "counted", "slow", "flaky"))
MAY_BE_DEAD = frozenset(("flaky", "failing", "swallowing", "killing"))
HAS_EFFECT = frozenset(("counted", "slow", "flaky"))
"""Once, if it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known when everything has come to rest."""

    tried: Collection[str]
    """Ids that a publisher sent, acknowledged or not."""
    acknowledged: Collection[str]
    rows: Mapping[str, str]
    """The status of each id in `events`."""
    effects: Mapping[str, int]
    """How often each id's effect is there."""
    ahead: Collection[str] = ()
    """Ids that a saved or reported cursor had passed before they had a row."""
    gaps: int = 0
    """How many were recorded; nothing that was kept was ever missing, so there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of ids; all but the first four have to be 0."""

    attempted: int
    acknowledged: int
    stored: int
    dead: int
    lost: int
    """Acknowledged, and neither stored nor dead."""
    doubled: int
    """An effect is there more than once."""
    unexpected: int
    """A row that nobody sent, an effect without a stored row, or stored what can only fail."""
    wrongly_dead: int
    """Dead, though its handler was not told to fail."""
    without_effect: int
    """Stored, and its handler's effect is missing."""
    cursor_ahead: int
    """A cursor, saved or reported, stood behind it before it had a row."""
    false_gaps: int
    """Gaps recorded where nothing was missing."""

    @property
    def is_valid(self) -> bool:
        """Whether nothing was lost and nothing twice."""
        return not any(getattr(self, field.name) for field in fields(self)[4:])

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


def judge(evidence: Evidence) -> Verdict:
    """Count what must not be."""
    rows, effects = evidence.rows, evidence.effects
    stored = {id_ for id_, status in rows.items() if status == "stored"}
    dead = rows.keys() - stored
    invented = rows.keys() - set(evidence.tried)
    impossible = {id_ for id_ in stored - invented if type_of(id_) not in MAY_BE_STORED}
    orphans = effects.keys() - {id_ for id_ in stored if type_of(id_) in HAS_EFFECT}
    return Verdict(
        attempted=len(evidence.tried),
        acknowledged=len(evidence.acknowledged),
        stored=len(stored),
        dead=len(dead),
        lost=len(set(evidence.acknowledged) - rows.keys()),
        doubled=sum(count > 1 for count in effects.values()),
        unexpected=len(invented | impossible | orphans),
        wrongly_dead=sum(type_of(id_) not in MAY_BE_DEAD for id_ in dead - invented),
        without_effect=sum(type_of(id_) in HAS_EFFECT and id_ not in effects for id_ in stored - invented),
        cursor_ahead=len(evidence.ahead),
        false_gaps=evidence.gaps,
    )


def type_of(id: str) -> str:
    """The event's type, as its id tells."""
    return id.partition(":")[0]
