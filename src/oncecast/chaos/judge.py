"""Compare what publishers sent with what PostgreSQL stores: find what was lost, doubled or invented.

Pure functions. `Rules` belong to the application: how events of each type may end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

from oncecast.core.event import DEFAULT_SOURCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How events may end, by type: exact, or a pattern with a trailing `*`."""

    may_be_stored: Collection[str] = ("*",)
    may_be_dead: Collection[str] = ()
    has_effect: Collection[str] = ()
    """Types with an effect that is counted by id: once if the event is stored."""


OWN_RULES = Rules(
    may_be_stored=frozenset(("tick", "counted", "slow", "flaky")),
    may_be_dead=frozenset(("flaky", "failing", "swallowing", "killing")),
    has_effect=frozenset(("counted", "slow", "flaky")),
)
"""The rules of the built-in application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The final state of a run. Ids are those of `identity`."""

    tried: Collection[str]
    """Ids that a publisher sent, acknowledged or not."""
    acknowledged: Collection[str]
    rows: Mapping[str, str]
    """The status of each id in `events`."""
    types: Mapping[str, str] | None = None
    """The type of each of `rows`; None: the part of the id before the colon."""
    effects: Mapping[str, int] = field(default_factory=dict)
    """The number of effects of each id."""
    emitted: Mapping[str, int] = field(default_factory=dict)
    """The number of commits of each follow-up to the outbox."""
    caused: Collection[str] = ()
    """Ids of follow-ups that the handlers of stored events may have emitted."""
    left_in_outbox: int = 0
    """Follow-ups that no producer has acknowledged."""
    conflicts: int = 0
    """Recorded conflicts; publishers repeat the same content, so there must be none."""
    check_rows: int = 0
    """The number of rows that the application's own checks returned."""
    ahead: Collection[str] = ()
    """Ids that a saved or reported cursor had passed before they had a row."""
    gaps: int = 0
    """Recorded gaps; no retained event was deleted, so there must be none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of ids; all but the first five must be 0."""

    attempted: int
    acknowledged: int
    emitted: int
    """Follow-ups that handlers committed."""
    stored: int
    dead: int
    lost: int
    """Acknowledged or emitted, and neither stored nor dead."""
    doubled: int
    """Ids with more than one effect, and follow-ups that were emitted more than once."""
    unexpected: int
    """Rows that nobody sent, effects and follow-ups without a stored row, and stored events that can only fail."""
    wrongly_dead: int
    """Dead letters whose handler does not fail."""
    without_effect: int
    """Stored events without their handler's effect."""
    left_in_outbox: int
    """Follow-ups that were never relayed."""
    conflicts: int
    """Other content under a used identity."""
    check_rows: int
    """Violations that the application's own checks found."""
    cursor_ahead: int
    """Events that a saved or reported cursor had passed before they had a row."""
    false_gaps: int
    """Gaps recorded where nothing was missing."""

    @property
    def is_valid(self) -> bool:
        """Whether nothing was lost and nothing happened twice."""
        return not any(getattr(self, field.name) for field in fields(self)[5:])

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


def judge(evidence: Evidence, rules: Rules = OWN_RULES) -> Verdict:
    """Count the violations."""
    rows, effects, emitted = evidence.rows, evidence.effects, evidence.emitted
    types = {id_: type_of(id_) for id_ in rows} if evidence.types is None else evidence.types
    stored = {id_ for id_, status in rows.items() if status == "stored"}
    dead = rows.keys() - stored
    invented = rows.keys() - set(evidence.tried) - emitted.keys()
    impossible = {id_ for id_ in stored - invented if not _among(rules.may_be_stored, types[id_])}
    effective = {id_ for id_ in stored if _among(rules.has_effect, types[id_])}
    orphans = (effects.keys() - effective) | (emitted.keys() - set(evidence.caused))
    return Verdict(
        attempted=len(evidence.tried),
        acknowledged=len(evidence.acknowledged),
        emitted=len(emitted),
        stored=len(stored),
        dead=len(dead),
        lost=len((set(evidence.acknowledged) | emitted.keys()) - rows.keys()),
        doubled=sum(count > 1 for counts in (effects, emitted) for count in counts.values()),
        unexpected=len(invented | impossible | orphans),
        wrongly_dead=sum(not _among(rules.may_be_dead, types[id_]) for id_ in dead - invented),
        without_effect=len(effective - invented - effects.keys()),
        left_in_outbox=evidence.left_in_outbox,
        conflicts=evidence.conflicts,
        check_rows=evidence.check_rows,
        cursor_ahead=len(evidence.ahead),
        false_gaps=evidence.gaps,
    )


def identity(source: str, id: str) -> str:
    """Return the event's identity as one text: only its id if its source is the default."""
    return id if source == DEFAULT_SOURCE else f"{source}\0{id}"


def type_of(id: str) -> str:
    """Return the type of an event of the built-in application from its id."""
    return id.partition(":")[0]


def _among(patterns: Collection[str], type: str) -> bool:
    return type in patterns or any(p.endswith("*") and type.startswith(p[:-1]) for p in patterns)
