"""The cursor stage: save the group's position in each journal, only over ranges that PostgreSQL has recorded.

Neither a wrong done marker in Redis nor a PostgreSQL that was restored to an older state makes a listener skip
events: if a range that had been recorded is missing, the events are read and processed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from oncecast.core.clock import Clock
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import Cursors
from oncecast.core.retry import jittered
from oncecast.core.telemetry import CursorSaved, GapNoted, Record, RowsMissing, ServerReplaced
from oncecast.core.wire import Gap
from oncecast.listener.dependencies.gates import DatabaseGate
from oncecast.listener.feed.track import Track
from oncecast.tasks import STALL_S, working

SAVE_INTERVAL_S = 1.0
CHECK_INTERVAL_S = 5.0


class CursorSaver:
    """Saves the cursors of `tracks` every second."""

    def __init__(
        self,
        store: Cursors,
        database: DatabaseGate,
        clock: Clock,
        *,
        tracks: Callable[[], Iterable[Track]],
        record: Record,
    ) -> None:
        self._store = store
        self._database = database
        self._clock = clock
        self._tracks = tracks
        self._record = record
        self._checked_at_s = self._clock.monotonic_s()

    async def save_loop(self) -> None:
        """Save about every second; jitter keeps the listeners of a group apart."""
        while True:
            working(STALL_S)
            await self._clock.sleep(jittered(SAVE_INTERVAL_S, self._clock.random()))
            await self.save()

    async def save(self) -> None:
        """Save every cursor that can advance; a failed one is saved later.

        Also check the others every CHECK_INTERVAL_S: without traffic, nothing else detects a PostgreSQL that was
        restored to an older state.
        """
        is_check_due = self._clock.monotonic_s() - self._checked_at_s >= CHECK_INTERVAL_S
        for track in list(self._tracks()):
            # rule: after a restart of PostgreSQL, journals are read again from the saved cursor
            replaced = track.incarnation not in (None, self._store.incarnation)
            if replaced and not track.is_superseded:
                self._record(ServerReplaced(track.journal, track.saved.offset))
                track.abandon()
            if track.is_superseded:
                continue  # its successor starts at the saved cursor
            can_advance = track.watermark.value > track.saved.offset
            if self._database.is_up and (can_advance or (is_check_due and track.saved.offset)):
                try:
                    await self._save(track)
                except (Unavailable, RowLocked):
                    continue  # DatabaseGate detects an outage
        if is_check_due:
            self._checked_at_s = self._clock.monotonic_s()

    async def _save(self, track: Track) -> None:
        before = track.saved
        save = await self._store.save_cursor(track.journal, track.epochs, position=before, proved=track.recorded)
        if save.saved is not None:
            track.save(save.saved)
        if track.saved != before:
            self._record(CursorSaved(track.journal, str(track.saved)))
        # rule: events of missing ranges are read again
        if save.missing:
            self._record(RowsMissing(track.journal, track.saved.offset))
            track.abandon()
        elif track.gaps and track.saved.offset + 1 >= track.gaps[0].first:
            await self._pass(track, track.gaps[0])

    async def _pass(self, track: Track, gap: Gap) -> None:
        """Record the gap and move the cursor behind it; all events before the gap are saved."""
        passed = await self._store.pass_gap(
            track.journal, track.epochs, first=gap.last + 1, reason="skipped", after=gap.first - 1
        )
        if passed is None:  # PostgreSQL was restored to an older state, or the journal has a divergent history
            track.abandon()
        elif passed.offset >= gap.last:
            track.save(passed)
            self._record(GapNoted(track.journal, gap.first, gap.last))
