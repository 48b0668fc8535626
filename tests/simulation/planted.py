"""The faults to plant: each is named after the rule that it breaks."""

from __future__ import annotations

from dataclasses import dataclass

POWER_CUT = "tests/faults/test_disk.py::test_what_was_acknowledged_survives_a_power_cut"
ATTEMPTS = "tests/conformance/test_attempts.py"
ENDING_ONCE = "tests/conformance/test_ending_once.py"
FEED = "tests/unit/listener/test_feed.py"
EVENT_STORE = "tests/conformance/test_event_store.py"
HANDLING = "tests/conformance/test_handling.py"
HANDOVER = "tests/conformance/test_handover.py"
INTERRUPTED = "tests/conformance/test_interrupted.py"
LEASES = "tests/conformance/test_leases.py"
ORDER = "tests/unit/listener/test_order_of_duplicates.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file` of the package, `old` becomes `new`. Simulation seeks it, or the tests named in `by`."""

    rule: str
    file: str
    old: str
    new: str
    by: str | None = None


DECISIONS = [
    Mutant(
        "what is taken has not ended",
        "listener/service.py",
        "        self._watch.add(claims.taken)\n",
        "        self.settlement.ended_elsewhere([arrival for arrival, _ in claims.taken])\n",
    ),
    Mutant(
        "no dead letter on an unknown outcome",
        "core/errors.py",
        "            return Cost.PAUSE\n",
        "            return Cost.DEAD\n",
    ),
    Mutant(
        "a pause spends no attempt",
        "core/errors.py",
        "            return Cost.PAUSE\n",
        "            return Cost.RETRY\n",
    ),
    Mutant(
        "rows that are missing are read again",
        "listener/cursor.py",
        "        if save.missing:\n",
        "        if False:\n",
    ),
    Mutant(
        "an event that kills its holders is given up on",
        "listener/attempt.py",
        "        if deaths >= self._limits.claims_max:\n",
        "        if False:\n",
    ),
    Mutant(
        "retention goes by the saved cursor, not by what was received",
        "listener/feed.py",
        "                report.cursor = str(self.track.saved)\n",
        "                report.cursor = str(self.track.cursor_at(self.track.watermark.received))\n",
    ),
    Mutant(
        "retention never passes the saved cursor of a group",
        "producer/retention.py",
        "            self._journal.last if holder is None else holder.saved,\n",
        "            self._journal.last,\n",
    ),
    Mutant(
        "a reader resumes by its epochs",
        "core/wire.py",
        "            return min(offset, end)\n",
        "            return cursor.offset\n",
    ),
    Mutant(
        "a journal that went another way is read anew",
        "listener/feed.py",
        "            if goes_on and received + 1 >= welcome.first:\n",
        "            if True:\n",
    ),
    Mutant(
        "who knows a lost future does not move the cursor",
        "core/wire.py",
        "    return list(epochs[: len(saved)]) == list(saved)\n",
        "    return True\n",
    ),
    Mutant(
        "a welcome that came before the cursor was read does not tell whose future is lost",
        "listener/feed.py",
        "        if saved.epochs != self._doubted_epochs:\n",
        "        if False:\n",
        by=FEED,
    ),
    Mutant(
        "a second arrival waits for the first and goes its own way",
        "listener/settle.py",
        "                self._behind.setdefault(identity, deque()).append(arrival)\n",
        "                pass\n",
    ),
    Mutant(
        "what is not stored comes back",
        "listener/service.py",
        "        if self._draining.is_set() or not arrivals:\n",
        "        if self._draining.is_set() or not arrivals or arrivals[0].attempts:\n",
    ),
    Mutant(
        "what was refused is not acknowledged",
        "producer/intake.py",
        '            raise Problem(503, f"{error}; nothing was acknowledged", headers=RETRY_AFTER) from None\n',
        "            first = self._journal.last + 1\n",
    ),
    Mutant(
        "a probe that writes ends the pause",
        "listener/gates.py",
        "            self._up.set()\n            self._failing = None\n",
        "            self._failing = None\n",
    ),
    Mutant(
        "a broken connection is made again",
        "listener/feed.py",
        "            self._observe(Reconnecting(self.shown_url, delay_s, attempt - 1))\n",
        "            await asyncio.Event().wait()\n",
    ),
    Mutant(
        "credit goes back as events end",
        "listener/track.py",
        "        self._on_credit(freed_bytes + self._forget())\n",
        "        self._forget()\n",
    ),
    Mutant(
        "a gap is recorded before it is passed",
        "listener/track.py",
        "            self.gaps.append(gap)\n",
        "            pass\n",
    ),
    Mutant(
        "a mark is written after the commit",
        "listener/claim.py",
        "                claims = await self._leases.claim(batch)\n",
        (
            "                claims = await self._leases.claim(batch)\n"
            "                await self._leases.settle(claims.mine)\n"
        ),
    ),
    Mutant(
        "a suspect is attempted alone",
        "listener/attempt.py",
        "            async with self._solo.alone():\n",
        "            async with self._solo.together():\n",
    ),
    Mutant(
        "a mark proves nothing about what is read again",
        "listener/gates.py",
        "        doubtful = [a for a in claims.ended if a.track is not None and a.offset <= a.track.distrusted_to]\n",
        "        doubtful = [a for a in claims.ended if a.offset < 0]\n",
    ),
    Mutant(
        "without Redis everything is ours",
        "listener/gates.py",
        "        return Claims(mine=list(arrivals))\n",
        "        return Claims()\n",
    ),
    Mutant(
        "what nobody can be asked about is free",
        "listener/gates.py",
        "            found = Claims(free=list(chunk))\n",
        "            found = Claims()\n",
    ),
    Mutant(
        "a reader goes on right after its cursor",
        "producer/session.py",
        "    return max(journal.first - 1, min(offset, journal.last))\n",
        "    return max(journal.first - 1, min(offset + 1, journal.last))\n",
    ),
    Mutant(
        "who is behind the newest frames reads the journal",
        "producer/ring.py",
        "        if index < 0:\n",
        "        if index < 0 and not self._frames:\n",
    ),
    Mutant(
        "nothing is acknowledged before its commit",
        "producer/intake.py",
        "            first = await self._journal.append(publication.events)\n",
        (
            "            first = self._journal.last + 1\n"
            "            self._appending = asyncio.ensure_future(self._journal.append(publication.events))\n"
        ),
    ),
    Mutant(
        "what a forgotten track holds is not waited for",
        "listener/feed.py",
        " and self.track is not None and not self.track.abandoned.is_set():",
        " and self.track is not None:",
    ),
    Mutant(
        "who has to read anew leaves",
        "listener/feed.py",
        "        await track.abandoned.wait()\n",
        "        await asyncio.Event().wait()\n",
    ),
    Mutant(
        "a group begins its cursor before it reads",
        "listener/feed.py",
        "        await self._store.begin_cursor(",
        "        _ = (",
    ),
    Mutant(
        "an older state of PostgreSQL is noticed",
        "listener/cursor.py",
        "can_advance or (is_time_to_look and track.saved.offset)",
        "can_advance",
    ),
    Mutant(
        "what is taken is watched until it has ended",
        "listener/rescue.py",
        "                self._taken.append((arrival, token))\n",
        "                pass\n",
    ),
    Mutant(
        "one that fails charges nobody who was with it",
        "listener/attempt.py",
        "                for arrival in part:\n                    arrival.attempts -= 1\n",
        "",
    ),
    Mutant(
        "what was together has ended only if its transaction committed",
        "listener/attempt.py",
        "                left += reversed(self._app.plan_of(part[0].type, part[0].source).parts(part))\n",
        "                self._settle(part, [Outcome.STORED] * len(part))\n",
    ),
    Mutant(
        "Retry spends an attempt",
        "listener/attempt.py",
        "        elif cost is Cost.WAIT:\n",
        "        elif cost is Cost.WAIT or isinstance(error, Retry):\n",
    ),
    Mutant(
        "Retry waits no longer than it may",
        "listener/attempt.py",
        "            return min(error.after_s, self._limits.retry_after_max_s)\n",
        "            return error.after_s\n",
    ),
    Mutant(
        "the next of a key goes on when the one before it has ended",
        "listener/order.py",
        "        elif follower is not None:\n            self._release(follower)\n",
        "",
    ),
    Mutant(
        "an ordered event names the one before it",
        "listener/order.py",
        "            arrival.turn.before = before.turn\n",
        "            pass\n",
    ),
    Mutant(
        "a second arrival waits for what stands before it",
        "listener/order.py",
        "            self._before[arrival] = before\n",
        "            arrival.turn.before = None\n",
    ),
    Mutant(
        "an event out of turn whose track is abandoned is let go",
        "listener/attempt.py",
        "            self._let_go(work[0])\n",
        "            self._spare(work, error, delay_s=WAIT_S)\n",
    ),
    Mutant(
        "what stands behind an event that is let go is let go too",
        "listener/settle.py",
        "            following = self._was_let_go(following)\n",
        "            following = self._ended(following)\n",
        by=ORDER,
    ),
    Mutant(
        "what comes on an abandoned track is left to its successor",
        "listener/feed.py",
        "            if track.abandoned.is_set():\n                return  # its",
        "            if False:\n                return  # its",
        by=FEED,
    ),
    Mutant(
        "a replay takes its key",
        "listener/replay.py",
        "                await tx.take(key)\n",
        "                pass\n",
    ),
    Mutant(
        "a follow-up has its id from its cause",
        "listener/handlers.py",
        "id=id_",
        "id=Event.new(follow_up.type).id",
    ),
]
"""In what decides: simulation runs this very code."""

STORES = [
    Mutant(
        "a cursor is saved over rows that are shown",
        "stores/memory/events.py",
        "while shown < len(candidates) and candidates[shown].identity in self._tables.rows:",
        "while shown < len(candidates):",
    ),
    Mutant(
        "COMMIT counts only by its tag",
        "stores/memory/client.py",
        "        if not committed:\n",
        "        if False:\n",
    ),
    Mutant(
        "row and effect commit together",
        "stores/memory/postgres.py",
        ("        if not session.failed:\n            self.tables.rows |= session.rows\n"),
        ("        self.tables.rows |= session.rows\n        if not session.failed:\n"),
    ),
    Mutant(
        "an identity is inserted once",
        "stores/memory/events.py",
        "            if arrival.identity not in self._tables.rows and not stays_out:\n",
        "            if not stays_out:\n",
    ),
    Mutant(
        "a row in another's transaction is waited for",
        "stores/memory/postgres.py",
        "            while (holder := self._locks.get(identity)) not in (None, session):\n",
        "            while False and (holder := self._locks.get(identity)):\n",
    ),
    Mutant(
        "a replay turns dead into stored once",
        "stores/memory/letters.py",
        ('            if row is None or row.status != "dead":\n                self._server.roll_back(session)\n'),
        ("            if row is None:\n                self._server.roll_back(session)\n"),
    ),
    Mutant(
        "a whole batch is not charged for one crash",
        "stores/memory/leases.py",
        "                counts = died and (lease.rescues < SUSPECT_RESCUES or lease.accused)\n",
        "                counts = died\n",
    ),
    Mutant(
        "only a proven death is charged",
        "listener/rescue.py",
        "died=sessions is Sessions.NONE",
        "died=True",
        by="tests/unit/listener/test_rescue.py",
    ),
    Mutant(
        "an answer is as old as its question",
        "core/taken.py",
        "if asked_s - since_s >= self._dead_after_s",
        "if answered_s - since_s >= self._dead_after_s",
        by="tests/unit/core/test_taken.py",
    ),
    Mutant(
        "a holder touches only its own leases",
        "stores/memory/leases.py",
        "        return self._held_by(self.token, arrivals)\n",
        "        return [arrival for arrival in arrivals if self._server.get(arrival.identity) is not None]\n",
    ),
    Mutant(
        "handlers of what is together get only what is new",
        "stores/memory/events.py",
        "lambda tx: work(tx, new)",
        "lambda tx: work(tx, arrivals)",
    ),
    Mutant(
        "one of a key is under way at a time",
        "stores/memory/events.py",
        'self._server.try_lock(session, f"key {turn.key}") and has_come',
        "has_come",
    ),
    Mutant(
        "the row of the one before is looked up",
        "stores/memory/events.py",
        "        has_come = turn.has_come({each: (row.epoch, row.offset) for each, row in found.items()})\n",
        "        has_come = True\n",
    ),
    Mutant(
        "a row that came by another place says nothing about what stands between",
        "core/event.py",
        "            if place is None or place == (turn.epoch, turn.offset):\n",
        "            if True:\n",
        by=HANDLING,
    ),
    Mutant(
        "to be buried an ordered event waits for its turn",
        "stores/memory/events.py",
        "            if arrival.turn is not None:\n",
        "            if False:\n",
        by=HANDLING,
    ),
    Mutant(
        "what is emitted commits with its cause",
        "stores/memory/client.py",
        "            session.emitted = facade.emitted\n",
        (
            "            emission = self._server.begin(self._token)\n"
            "            emission.emitted = list(facade.emitted)\n"
            "            self._server.commit(emission)\n"
        ),
    ),
    Mutant(
        "a savepoint that is rolled back takes its emissions with it",
        "stores/memory/client.py",
        "                del self._emitted[emitted_before:]\n",
        "",
    ),
    Mutant(
        "the outbox lets go of what was acknowledged, and not before",
        "stores/memory/outbox.py",
        "        try:\n            await publish([event for _, event in emissions])\n",
        (
            "        session.relayed.extend(number for number, _ in emissions)\n"
            "        await self._do(lambda: self._server.commit(session))\n"
            "        try:\n            await publish([event for _, event in emissions])\n            return 1\n"
        ),
    ),
]
"""In what stands for PostgreSQL and Redis in simulation: rules that both keep."""

ADAPTERS = [
    Mutant(
        "a commit is synced",
        "journal/file.py",
        'connection.execute("pragma synchronous = full")',
        'connection.execute("pragma synchronous = normal")',
        by=POWER_CUT,
    ),
    Mutant(
        "release frees only one's own lease",
        "stores/redis/lua/release.lua",
        ("  if value == ARGV[1] then\n    redis.call('DEL', key)"),
        ("  if value then\n    redis.call('DEL', key)"),
        by=LEASES,
    ),
    Mutant(
        "settle marks only one's own lease",
        "stores/redis/lua/settle.lua",
        "  if value == ARGV[1] or (value and string.find(value, held) == 1) then",
        "  if true then",
        by=LEASES,
    ),
    Mutant(
        "a claim takes only what is free",
        "stores/redis/lua/claim.lua",
        "ARGV[1], 'NX', 'GET', 'PX', ARGV[2])",
        "ARGV[1], 'GET', 'PX', ARGV[2])",
        by=LEASES,
    ),
    Mutant(
        "a suspect's rescue counts only if it was accused",
        "stores/redis/lua/rescue.lua",
        "    if count < tonumber(ARGV[3]) or string.sub(value, #ARGV[1] + 1, #ARGV[1] + 1) == '!' then",
        "    if true then",
        by=LEASES,
    ),
    Mutant(
        "COMMIT counts only by its tag",
        "stores/postgres/handover.py",
        '    if committed.command_status != b"COMMIT":\n',
        "    if False:\n",
        by=ENDING_ONCE,
    ),
    Mutant(
        "only COMMIT's own tag says that it is done",
        "stores/postgres/handover.py",
        "        believe_commit(committed)\n        try:\n",
        (
            "        if not begun:  # an error alone\n            return None\n"
            "        believe_commit(committed)\n        try:\n"
        ),
        by=HANDOVER,
    ),
    Mutant(
        "attempts outlive their process",
        "stores/postgres/sql/migrations/0021_attempts.sql",
        "a.id = e.id and a.attempts >= $7)",
        "a.id = e.id and a.attempts >= $7 + 1000)",
        by=ATTEMPTS,
    ),
    Mutant(
        "a failed attempt whose answer was lost counts once",
        "stores/postgres/sql/queries.sql",
        "when a.failures @> excluded.failures then a.attempts\n",
        "when false then a.attempts\n",
        by=ATTEMPTS,
    ),
    Mutant(
        "a repeated arrival ends only where its identity has a row",
        "stores/postgres/comparison.py",
        "        return [found.get((a.journal, a.epoch, a.offset)) for a in arrivals]\n",
        "        return [found.get((a.journal, a.epoch, a.offset), Outcome.DUPLICATE) for a in arrivals]\n",
        by=ENDING_ONCE,
    ),
    Mutant(
        "a handler cannot take its own event's row away",
        "stores/postgres/sql/migrations/0022_own_row.sql",
        "when (old.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid)",
        "when (false)",
        by=INTERRUPTED,
    ),
    Mutant(
        "a statement that an administrator cancels is not charged",
        "stores/postgres/errors.py",
        '    return "user request" in words or took_s < timeout_s\n',
        "    return False\n",
        by=INTERRUPTED,
    ),
    Mutant(
        "only what is inserted is handled",
        "stores/postgres/store.py",
        (
            '                        await held.connection.execute("rollback")\n'
            "                        held.connection.writes = True  # a conflict is kept by a statement of its own\n"
            "                        return (await self._compare(held.connection, [arrival]))[arrival.offset]\n"
        ),
        "                        pass\n",
        by=ENDING_ONCE,
    ),
    Mutant(
        "a cursor is saved over rows that are shown",
        "stores/postgres/cursors.py",
        "            shown = await self._prefix_shown(connection, candidates)\n",
        "            shown = len(candidates)\n",
        by=ENDING_ONCE,
    ),
    Mutant(
        "who knows a lost future does not move the cursor",
        "stores/postgres/cursors.py",
        "            if not has_heard_of(epochs, saved.epochs):\n                return None\n",
        "",
        by=ENDING_ONCE,
    ),
    Mutant(
        "a gap and the cursor that passes it commit together",
        "stores/postgres/cursors.py",
        '            await connection.execute(self._db.queries["note_gap"], {**gap, "reason": reason})\n',
        "            pass\n",
        by=ENDING_ONCE,
    ),
    Mutant(
        "a replay turns dead into stored once",
        "stores/postgres/sql/queries.sql",
        ("e.id = %(id)s and e.status = 'dead' and d.discarded_at is null\nfor update of e"),
        ("e.id = %(id)s and d.discarded_at is null\nfor update of e"),
        by=ENDING_ONCE,
    ),
    Mutant(
        "nothing goes in for an application of before",
        "stores/postgres/sql/queries.sql",
        "where (%(revision)s < 0 or %(revision)s = (select pg_catalog.max(revision) from {schema}.groups))\n"
        "    and (not",
        "where (not",
        by=ENDING_ONCE,
    ),
    Mutant(
        "handlers of what is together get only what is new",
        "stores/postgres/store.py",
        "                    await work(tx, new)\n",
        "                    await work(tx, arrivals)\n",
        by=HANDLING,
    ),
    Mutant(
        "one of a key is under way at a time",
        "stores/postgres/sql/queries.sql",
        "from pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({schema_text} || %(key)s, 0)) taken\n",
        "from (select true) as t (taken)\n",
        by=HANDLING,
    ),
    Mutant(
        "the row of the one before is looked up",
        "stores/postgres/store.py",
        "        if not (is_ours and turn.has_come(rows)):\n",
        "        if not is_ours:\n",
        by=HANDLING,
    ),
    Mutant(
        "to be buried an ordered event waits for its turn",
        "stores/postgres/store.py",
        "            if arrival.turn is not None:\n                await self._begin_in_turn",
        "            if False:\n                await self._begin_in_turn",
        by=HANDLING,
    ),
    Mutant(
        "what a handler has asked for is waited for",
        "stores/postgres/transaction.py",
        "        if self._asked:\n",
        "        if self._one_at_a_time.locked():\n",
        by=EVENT_STORE,
    ),
    Mutant(
        "a replay takes its key",
        "stores/postgres/transaction.py",
        '        if await (await self._run(self._take_key, {"key": key})).fetchone() != (True,):\n',
        '        if await (await self._run(self._take_key, {"key": key})).fetchone() is None:\n',
        by=HANDLING,
    ),
    Mutant(
        "what is emitted commits with its cause",
        "stores/postgres/work.py",
        "    await _roll_back(connection, failure, deadline_s)\n    translated",
        (
            "    await _roll_back(connection, failure, deadline_s)\n"
            '    await connection.execute(database.queries["emit"], {"events": emitted})\n'
            '    await connection.execute("commit")\n'
            "    translated"
        ),
        by=HANDLING,
    ),
    Mutant(
        "a savepoint that is rolled back takes its emissions with it",
        "stores/postgres/transaction.py",
        "                del self._emitted[emitted_before:]\n",
        "",
        by=HANDLING,
    ),
    Mutant(
        "the outbox lets go of what was acknowledged, and not before",
        "stores/postgres/outbox.py",
        "                due = await self._due(connection, limit, max_bytes, within_s)\n",
        (
            "                due = await self._due(connection, limit, max_bytes, within_s)\n"
            '                await connection.execute(self._db.queries["forget_emissions"],'
            ' {"numbers": [number for number, _ in due]})\n'
            "                await commit(connection, self._deadline_s)\n"
            '                await connection.execute("begin")\n'
        ),
        by=HANDLING,
    ),
    Mutant(
        "one listener relays at a time",
        "stores/postgres/sql/queries.sql",
        "select pg_try_advisory_xact_lock(hashtextextended({schema_text} || ' outbox', 0))",
        "select true",
        by=HANDLING,
    ),
]
"""In the adapters of the real ones: the suite that memory passes too finds them, on the real ones."""

MUTANTS = [*DECISIONS, *STORES, *ADAPTERS]
