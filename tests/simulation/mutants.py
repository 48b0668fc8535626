"""Faults planted in the code, each named after the rule that it breaks: the simulation has to find every one of them.

    python -m tests.simulation.mutants [--runs 2000] [NAME…]

*Found* means the judge's verdict, a cursor ahead, or a stall, never an error of the mutation itself. The code as it
is passes the same seeds. Memory adapters stand for the real ones; a mutant of theirs breaks a rule that both keep.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHUNK_RUNS = 50
POWER_CUT = "tests/faults/test_disk.py::test_what_was_acknowledged_survives_a_power_cut"


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file`, `old` becomes `new`. It is sought by simulation, or by the test named in `by`."""

    rule: str
    file: str
    old: str
    new: str
    by: str | None = None


LISTENER, STORES = "listener/", "stores/memory/"
MUTANTS = [
    Mutant(
        "what is taken has not ended",
        LISTENER + "service.py",
        "        self._watch.add(claims.taken)\n",
        "        self.settlement.ended_elsewhere([arrival for arrival, _ in claims.taken])\n",
    ),
    Mutant(
        "what is taken is watched until it has ended",
        LISTENER + "rescue.py",
        "                self._taken.append((arrival, token))\n",
        "                pass\n",
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
        "a cursor is saved over rows that are shown",
        STORES + "events.py",
        "while shown < len(candidates) and candidates[shown].identity in self._tables.rows:",
        "while shown < len(candidates):",
    ),
    Mutant(
        "rows that are missing are read again",
        LISTENER + "cursor.py",
        "        if save.missing:\n",
        "        if False:\n",
    ),
    Mutant(
        "COMMIT counts only by its tag",
        STORES + "client.py",
        "        if not committed:\n",
        "        if False:\n",
    ),
    Mutant(
        "row and effect commit together",
        STORES + "postgres.py",
        "        if not session.failed:\n            self.tables.rows |= session.rows\n",
        "        self.tables.rows |= session.rows\n        if not session.failed:\n",
    ),
    Mutant(
        "an identity is inserted once",
        STORES + "events.py",
        "            if arrival.identity not in self._tables.rows:\n",
        "            if True:\n",
    ),
    Mutant(
        "a row in another's transaction is waited for",
        STORES + "postgres.py",
        "            while (holder := self._locks.get(identity)) not in (None, session):\n",
        "            while False and (holder := self._locks.get(identity)):\n",
    ),
    Mutant(
        "a replay turns dead into stored once",
        STORES + "letters.py",
        '            if row is None or row.status != "dead":\n                self._server.roll_back(session)\n',
        "            if row is None:\n                self._server.roll_back(session)\n",
    ),
    Mutant(
        "a whole batch is not charged for one crash",
        STORES + "leases.py",
        "                counts = lease.rescues < SUSPECT_RESCUES or lease.accused\n",
        "                counts = True\n",
    ),
    Mutant(
        "an event that kills its holders is given up on",
        LISTENER + "attempt.py",
        "        if deaths >= self._limits.claims_max:\n",
        "        if False:\n",
    ),
    Mutant(
        "retention goes by the saved cursor, not by what was received",
        LISTENER + "feed.py",
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
        LISTENER + "feed.py",
        "            if goes_on and received + 1 >= welcome.first:\n",
        "            if True:\n",
    ),
    Mutant(
        "who knows a lost future does not move the cursor",
        "core/wire.py",
        "    return len(epochs) < len(saved) and",
        "    return False and",
    ),
    Mutant(
        "a second arrival waits for the first and goes its own way",
        LISTENER + "settle.py",
        "                self._behind.setdefault(identity, deque()).append(arrival)\n",
        "                pass\n",
    ),
    Mutant(
        "what is not stored comes back",
        LISTENER + "service.py",
        "        if self._draining or not arrivals:\n",
        "        if self._draining or not arrivals or arrivals[0].attempts:\n",
    ),
    Mutant(
        "what was refused is not acknowledged",
        "producer/intake.py",
        '            raise Problem(503, f"{error}; nothing was acknowledged", headers=RETRY_AFTER) from None\n',
        "            first = self._journal.last + 1\n",
    ),
    Mutant(
        "a probe that writes ends the pause",
        LISTENER + "gates.py",
        '            self._up.set()\n            self._observe(DependencyReady("database"))\n',
        '            self._observe(DependencyReady("database"))\n',
    ),
    Mutant(
        "a broken connection is made again",
        LISTENER + "feed.py",
        "            self._observe(Reconnecting(self.url, delay_s, attempt - 1))\n",
        "            await asyncio.Event().wait()\n",
    ),
    Mutant(
        "credit goes back as events end",
        LISTENER + "track.py",
        "        self._on_credit(freed_bytes + self._forget())\n",
        "        self._forget()\n",
    ),
    Mutant(
        "a gap is recorded before it is passed",
        LISTENER + "track.py",
        "            self.gaps.append(gap)\n",
        "            pass\n",
    ),
    Mutant(
        "a commit is synced",
        "journal/file.py",
        'connection.execute("pragma synchronous = full")',
        'connection.execute("pragma synchronous = normal")',
        by=POWER_CUT,
    ),
]


def plant(mutant: Mutant, folder: Path) -> None:
    """A copy of the package in `folder`, with the fault in it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "src/oncecast" / mutant.file
    text = file.read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.rule}: {mutant.file} has what is to be changed {text.count(mutant.old)} times")
    file.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def seek(mutant: Mutant, runs: int) -> tuple[Mutant, int | None, str]:
    """How many runs it took until it was found (None: it was not), and by what."""
    with tempfile.TemporaryDirectory(prefix="oncecast-mutant-") as name:
        folder = Path(name)
        plant(mutant, folder)
        environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}:{ROOT}"}
        if mutant.by is not None:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", mutant.by]
            ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            return mutant, 1 if " failed" in ended.stdout else None, mutant.by.rpartition("::")[2]
        for first in range(0, runs, CHUNK_RUNS):
            command = [sys.executable, "-m", "tests.simulation", "--runs", str(CHUNK_RUNS), "--workers", "1"]
            command += ["--first", str(first), "--stop-at-first"]
            ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            for line in ended.stderr.splitlines():
                seed, _, violations = line.removeprefix("seed ").partition(": ")
                if line.startswith("seed ") and " ended with " not in violations:
                    return mutant, int(seed) + 1, violations
            if ended.returncode and not ended.stderr.startswith("seed "):
                raise SystemExit(f"{mutant.rule}: {ended.stderr[-2_000:]}")
    return mutant, None, "not found"


def main() -> int:
    """Seek each of them; 0 if all were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=2_000)
    options = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if not options.names or any(n in mutant.rule for n in options.names)]
    missed = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        for mutant, run, by in workers.map(lambda mutant: seek(mutant, options.runs), wanted):
            missed += run is None
            print(f"{'found in run ' + str(run) if run else 'NOT FOUND':<18} {mutant.rule}  ({by})", flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
