"""The judge: from what publishers know and what PostgreSQL shows, whether anything was lost, doubled or invented.

Pure. `Rules` are the application's: how an event of which type may end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

from oncecast.core.event import DEFAULT_SOURCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How events may end, by their types: each exact, or a pattern with `*` at its end."""

    may_be_stored: Collection[str] = ("*",)
    may_be_dead: Collection[str] = ()
    has_effect: Collection[str] = ()
    """One that is counted by id: once, if it is stored."""


OWN_RULES = Rules(
    may_be_stored=frozenset(("tick", "counted", "slow", "flaky")),
    may_be_dead=frozenset(("flaky", "failing", "swallowing", "killing")),
    has_effect=frozenset(("counted", "slow", "flaky")),
)
"""Of our own application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known when everything has come to rest. An id is that of `identity`."""

    tried: Collection[str]
    """Ids that a publisher sent, acknowledged or not."""
    acknowledged: Collection[str]
    rows: Mapping[str, str]
    """The status of each id in `events`."""
    types: Mapping[str, str] | None = None
    """The type of each of `rows`; None: it stands before the colon of the id."""
    effects: Mapping[str, int] = field(default_factory=dict)
    """How often each id's effect is there."""
    emitted: Mapping[str, int] = field(default_factory=dict)
    """How often each follow-up was committed to the outbox."""
    caused: Collection[str] = ()
    """Ids of follow-ups that the handlers of stored events can have emitted."""
    left_in_outbox: int = 0
    """Follow-ups that no producer has acknowledged."""
    conflicts: int = 0
    """How many were recorded; whoever publishes again publishes the same, so there is none."""
    check_rows: int = 0
    """What the application's own checks returned, all together."""
    ahead: Collection[str] = ()
    """Ids that a saved or reported cursor had passed before they had a row."""
    gaps: int = 0
    """How many were recorded; nothing that was kept was ever missing, so there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of ids; all but the first five have to be 0."""

    attempted: int
    acknowledged: int
    emitted: int
    """Follow-ups that handlers committed."""
    stored: int
    dead: int
    lost: int
    """Acknowledged or emitted, and neither stored nor dead."""
    doubled: int
    """An effect is there more than once, or a follow-up was emitted more than once."""
    unexpected: int
    """A row that nobody sent, an effect or a follow-up without a stored row, or stored what can only fail."""
    wrongly_dead: int
    """Dead, though its handler was not told to fail."""
    without_effect: int
    """Stored, and its handler's effect is missing."""
    left_in_outbox: int
    """Follow-ups that were never relayed."""
    conflicts: int
    """Other content under a used identity."""
    check_rows: int
    """Violations that the application's own checks found."""
    cursor_ahead: int
    """A cursor, saved or reported, stood behind it before it had a row."""
    false_gaps: int
    """Gaps recorded where nothing was missing."""

    @property
    def is_valid(self) -> bool:
        """Whether nothing was lost and nothing twice."""
        return not any(getattr(self, field.name) for field in fields(self)[5:])

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


def judge(evidence: Evidence, rules: Rules = OWN_RULES) -> Verdict:
    """Count what must not be."""
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
    """The event's identity as one text: its id alone, if its source is the usual one."""
    return id if source == DEFAULT_SOURCE else f"{source}\0{id}"


def type_of(id: str) -> str:
    """The event's type, as its id tells."""
    return id.partition(":")[0]


def _among(patterns: Collection[str], type: str) -> bool:
    return type in patterns or any(p.endswith("*") and type.startswith(p[:-1]) for p in patterns)
