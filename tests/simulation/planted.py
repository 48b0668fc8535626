"""The faults to plant: each breaks the rule of one marker in the code."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.changes import (
    Change,
    always,
    argument,
    body_only,
    hang,
    ignoring_errors,
    instead,
    never,
    replaced,
    skip,
    unawaited,
    unfiltered,
    value,
    without,
)

POWER_CUT = "tests/faults/test_disk.py::test_what_was_acknowledged_survives_a_power_cut"
ATTEMPTS = "tests/conformance/test_attempts.py"
DEATHS = "tests/conformance/test_crash_log.py"
ENDING_ONCE = "tests/conformance/test_ending_once.py"
FEED = "tests/unit/listener/feed/test_feed.py"
EVENT_STORE = "tests/conformance/test_event_store.py"
HANDLING = "tests/conformance/test_handling.py"
CURSOR = "tests/unit/listener/pipeline/test_cursor.py"
CURSORS = "tests/unit/core/test_cursors.py"
HANDOVER = "tests/conformance/test_handover.py"
HEARTBEATS = "tests/unit/core/test_lease_owners.py"
INTERRUPTED = "tests/conformance/test_interrupted.py"
LEASES = "tests/conformance/test_leases.py"
ORDER = "tests/unit/listener/pipeline/test_order.py"
PIPELINE = "tests/unit/listener/pipeline/test_pipeline.py"
WHOLE_STORE = "tests/conformance/test_whole_ranges.py"
WHOLE = "tests/unit/listener/pipeline/test_whole_ranges.py"
TAKEOVER = "tests/unit/listener/dependencies/test_takeover.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`change` below the marker of `rule` in the `folder` of the package. Simulation finds it, or the tests `by`."""

    rule: str
    change: Change
    folder: str = ""
    by: str | None = None


DECISIONS = [
    Mutant(
        "a range leased by another listener has not ended",
        instead("self.end_elsewhere([each for each, _ in claims.leased_elsewhere])"),
    ),
    Mutant("an error with an unknown outcome makes no dead letter", replaced("PAUSE", "DEAD")),
    Mutant("an outage of PostgreSQL spends no attempt", never()),
    Mutant("a range is queued once", always(), "listener", by=WHOLE),
    Mutant("an event with a handler is not inserted without it", never(), by=WHOLE),
    Mutant("events of missing ranges are read again", never(), by=CURSOR),
    Mutant("after a restart of PostgreSQL, journals are read again from the saved cursor", never(), by=CURSOR),
    Mutant("a cursor passes only recorded ranges", never()),
    Mutant("a range of a divergent history proves nothing", always(), by=CURSORS),
    Mutant("an event with other content under a used identity is a conflict", replaced("CONFLICT", "DUPLICATE")),
    Mutant("an event that keeps killing its process becomes a dead letter", never()),
    Mutant("a listener reports its saved cursor, not what it has received", value("{} + '0'")),
    Mutant("retention never passes the saved cursor of a group", always()),
    Mutant("a reader resumes within the last epoch that it shares with the journal", argument()),
    Mutant("a journal with a divergent history is read again from the saved cursor", always()),
    Mutant("only a listener that knows the epochs of the saved cursor moves it", always()),
    Mutant("a listener asks twice before it replaces a cursor of a divergent history", never(), by=FEED),
    Mutant("a second arrival of an event waits for the first", skip()),
    Mutant("an event that has not ended returns to its queue", always(when="after_s")),
    Mutant("a refused request is not acknowledged", instead("first = 1")),
    Mutant("a probe that writes ends the pause", skip()),
    Mutant("a feed connects again after its connection broke", hang()),
    Mutant("credit returns to the producer when events end", argument()),
    Mutant("a gap is recorded before the cursor passes it", skip()),
    Mutant("a range is recorded once all its events have ended", unfiltered()),
    Mutant(
        "a done marker is written after the range is recorded",
        instead("await self._leases.mark_done([*ended, *self._ranges()])"),
    ),
    Mutant("a range of a superseded journal position gets no done marker", unfiltered(), by=PIPELINE),
    Mutant("a quarantined event runs alone", body_only()),
    Mutant("a done marker proves nothing about a range that is read again", value("[]")),
    Mutant("a listener claims every range while Redis is away", value("type({})()")),
    Mutant("a leased range can be claimed while Redis is away", value("type({})()")),
    Mutant("a reader continues right after its cursor", value("{} + 1")),
    Mutant("a reader behind the buffered frames reads the journal", never(when="self._frames")),
    Mutant("an event is acknowledged only after its commit", unawaited("1")),
    Mutant("a feed does not wait for credit of a superseded journal position", without(-1)),
    Mutant("a superseded journal position ends its connection", hang()),
    Mutant("a group saves a first cursor before it reads", skip()),
    Mutant("an older state of PostgreSQL is noticed", never(), by=CURSOR),
    Mutant("a range leased by another listener is watched until it ends", skip()),
    Mutant("a batch that fails spends no attempt of its events", skip()),
    Mutant(
        "a retry that the handler asks for spends an attempt",
        instead(
            "return await (self._keep_attempts(work, error, after_s=WAIT_S) if isinstance(error, Retry)"
            " else self._spend(work[0], error, last=cost is Cost.DEAD))"
        ),
    ),
    Mutant("the delay that a handler asks for has a limit", argument()),
    Mutant("the next event of a key runs when the one before it has ended", value("{} and None")),
    Mutant("an ordered event names the event before it", skip(), by=ORDER),
    Mutant("events of a superseded journal position are dropped", never(), "listener/pipeline", by=PIPELINE),
    Mutant("events of a superseded journal position are dropped", skip(), "core", by=PIPELINE),
    Mutant("events of a superseded journal position are left to its successor", never(), by=FEED),
    Mutant("a replay locks the key of its event", skip(), "listener"),
    Mutant("a follow-up event derives its id from its cause", value("__import__('uuid').uuid4().hex")),
]
"""In the core: simulation runs this very code."""

STORES = [
    Mutant("ranges are inserted whole or not at all", never(), "testing/memory", by=WHOLE_STORE),
    Mutant("ranges are recorded by the server that has their events", always(), "testing/memory"),
    Mutant("only the COMMIT tag proves a commit", never(), "testing/memory"),
    Mutant("the row of an event and the effects of its handler commit together", skip()),
    Mutant("an identity is inserted once", without(0)),
    Mutant("an insert waits for another transaction with the same identity", never()),
    Mutant("a replay turns a dead letter into a stored event once", without(-1), "testing/memory"),
    Mutant("a crash charges an event only if it was running", replaced("count.running is not None", "1"), by=DEATHS),
    Mutant("a takeover from an owner that may live counts nothing", replaced("died", "1"), by=LEASES),
    Mutant("only a proven death is charged", always(), by=TAKEOVER),
    Mutant("a heartbeat is as old as the question, not the answer", replaced("asked_s", "answered_s"), by=HEARTBEATS),
    Mutant("a listener changes only its own leases", without(-1), "testing/memory"),
    Mutant(
        "handlers receive only the events that their transaction inserted",
        replaced("new", "arrivals"),
        "testing/memory",
    ),
    Mutant("one event of a key runs at a time", always(), "testing/memory"),
    Mutant(
        "an ordered event runs only after the row of the event before it", always(), "testing/memory", by=HANDLING
    ),
    Mutant("a row from another position proves nothing about the events in between", always(), by=HANDLING),
    Mutant("an ordered event becomes a dead letter only in its turn", never(), "testing/memory", by=HANDLING),
    Mutant("emitted events commit together with their cause", skip(), "testing/memory"),
    Mutant("a savepoint that rolls back drops the events emitted in it", skip(), "testing/memory"),
    Mutant("an emitted event leaves the outbox only when acknowledged", ignoring_errors(), "testing/memory"),
    Mutant("events have ended only if their transaction committed", ignoring_errors()),
]
"""In the substitutes for PostgreSQL and Redis: rules that the real stores keep too."""

ADAPTERS = [
    Mutant("every commit of the journal is synced to disk", replaced("full", "normal"), by=POWER_CUT),
    Mutant(
        "a listener frees only the leases of the owner that it names",
        replaced("if takeovers then", "takeovers = takeovers or 0 if true then"),
        by=LEASES,
    ),
    Mutant("a listener replaces only its own leases by done markers", always(), by=LEASES),
    Mutant("a claim leases only free ranges", replaced("'NX', ", ""), by=LEASES),
    Mutant("only the COMMIT tag proves a commit", never(), "stores/postgres", by=ENDING_ONCE),
    Mutant("a commit that begins the next transaction is proven by its own tag", skip(), by=HANDOVER),
    Mutant("failed attempts count across processes", skip(), by=ATTEMPTS),
    Mutant("a failed attempt that is written again counts once", never(), by=ATTEMPTS),
    Mutant("a repeated arrival ends only if its identity has a row", replaced("join", "left join"), by=ENDING_ONCE),
    Mutant("a handler cannot remove the row of its own event", never(), by=INTERRUPTED),
    Mutant("a statement that an administrator cancels spends no attempt", never(), by=INTERRUPTED),
    Mutant("a handler runs only for an event that was inserted", never(), by=ENDING_ONCE),
    Mutant("ranges are recorded by the server that has their events", never(), "stores/postgres", by=ENDING_ONCE),
    Mutant("a gap and the cursor that passes it commit together", skip(), by=ENDING_ONCE),
    Mutant("a replay turns a dead letter into a stored event once", skip(), "stores/postgres", by=ENDING_ONCE),
    Mutant("a replaced application inserts nothing", always(), by=ENDING_ONCE),
    Mutant(
        "handlers receive only the events that their transaction inserted",
        unfiltered(),
        "stores/postgres",
        by=HANDLING,
    ),
    Mutant("one event of a key runs at a time", always(), "stores/postgres", by=HANDLING),
    Mutant(
        "an ordered event runs only after the row of the event before it", without(-1), "stores/postgres", by=HANDLING
    ),
    Mutant("an ordered event becomes a dead letter only in its turn", never(), "stores/postgres", by=HANDLING),
    Mutant("a transaction ends after every statement that its handler began", never(), by=EVENT_STORE),
    Mutant("a replay locks the key of its event", never(), "stores/postgres", by=HANDLING),
    Mutant("emitted events commit together with their cause", never(), "stores/postgres", by=HANDLING),
    Mutant("a savepoint that rolls back drops the events emitted in it", skip(), "stores/postgres", by=HANDLING),
    Mutant(
        "an emitted event leaves the outbox only when acknowledged", ignoring_errors(), "stores/postgres", by=HANDLING
    ),
    Mutant("one listener forwards the outbox at a time", never(), by=HANDLING),
]
"""In the adapters of PostgreSQL and Redis: the conformance tests, which memory passes too, find them."""

MUTANTS = [*DECISIONS, *STORES, *ADAPTERS]
