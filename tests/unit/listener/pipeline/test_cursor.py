"""The saved cursor of a group: it passes recorded ranges and gaps, and nothing else."""

from __future__ import annotations

from oncecast.core.errors import RowLocked
from oncecast.core.event import Cursor
from oncecast.core.ranges import Range
from oncecast.core.telemetry import CursorSaved, GapNoted, RowsMissing, ServerReplaced, TelemetryEvent
from oncecast.core.wire import Epoch, Gap
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.cursor import CHECK_INTERVAL_S, CursorSaver
from tests.simulation.clock import VirtualClock
from tests.support.arrivals import Credit, frame, receive_ranges
from tests.support.memory_servers import REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time, running

EPOCHS = [Epoch("e1", 1)]


class Saving:
    """A saver of two journals' cursors."""

    def __init__(self, clock: VirtualClock) -> None:
        self.servers = MemoryServers(clock)
        self.link = self.servers.to_postgres
        self.track, self.other = (
            Track(name, EPOCHS, 0, Credit(), self.servers.events.incarnation) for name in ("journal", "other")
        )
        self.saver = CursorSaver(
            self.servers.events,
            self.servers.database,
            clock,
            tracks=lambda: [self.track, self.other],
            record=self.telemetry_events.append,
        )

    @property
    def telemetry_events(self) -> list[TelemetryEvent]:
        return self.servers.telemetry_events

    def receive(self, count: int, on: Track | None = None) -> list[Range]:
        """Return ranges of the next `count` events of a journal, one event each."""
        on = on or self.track
        first = on.watermark.received + 1
        ids = (f"{on.journal}-{n}" for n in range(first, first + count))
        return receive_ranges(on, frame(first, *ids), 1)

    async def end(self, ranges: list[Range]) -> None:
        """Store the events, and record the ranges."""
        events = self.servers.events
        await events.insert([arrival for each in ranges for arrival in each.arrivals])
        assert await events.record_ranges([each.ended for each in ranges], events.incarnation)
        for each in ranges:
            each.track.record(each)

    async def saved(self, journal: str = "journal") -> Cursor | None:
        """What a listener that starts now would begin at."""
        found = await self.servers.events.load_cursor(journal)
        return found.cursor if found is not None else None


@in_virtual_time
async def test_the_cursor_passes_recorded_ranges(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(3))
    await at.saver.save()
    assert (await at.saved(), at.track.saved) == (Cursor("e1", 3), Cursor("e1", 3))
    assert at.telemetry_events == [CursorSaved("journal", "e1:3")]


@in_virtual_time
async def test_the_cursor_waits_for_an_event_that_has_not_ended(clock: VirtualClock) -> None:
    at = Saving(clock)
    first, _, third = at.receive(3)
    await at.end([third])
    await at.end([first])
    await at.saver.save()
    assert await at.saved() == Cursor("e1", 1)


@in_virtual_time
async def test_events_are_read_again_from_the_first_range_that_was_recorded_and_is_missing(
    clock: VirtualClock,
) -> None:
    at = Saving(clock)
    stored, lost = at.receive(2)
    await at.end([stored])
    at.track.record(lost)
    await at.saver.save()
    assert await at.saved() == Cursor("e1", 1)
    assert at.track.abandoned.is_set()
    assert at.telemetry_events[1:] == [RowsMissing("journal", 1)]


@in_virtual_time
async def test_after_a_restart_of_postgresql_the_journal_is_read_again_from_the_cursor(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    await at.saver.save()
    at.servers.postgres.fail_over(at.servers.postgres.snapshot())
    await at.servers.events.probe()
    await at.saver.save()
    assert at.track.abandoned.is_set()
    assert at.telemetry_events[1:] == [ServerReplaced("journal", 1), ServerReplaced("other", 0)]


@in_virtual_time
async def test_a_cursor_that_cannot_advance_is_not_saved_again(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    await at.saver.save()
    asked = at.link.calls
    for _ in range(3):
        await at.saver.save()
    assert at.link.calls == asked


@in_virtual_time
async def test_a_database_restored_to_an_older_state_is_noticed_without_traffic(
    clock: VirtualClock,
) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    await at.saver.save()
    older = at.servers.postgres.snapshot()
    await at.end(at.receive(2))
    await at.saver.save()
    at.servers.postgres.fail_over(older)
    await clock.sleep(CHECK_INTERVAL_S - 0.1)
    await at.saver.save()
    assert not at.track.abandoned.is_set()
    await clock.sleep(0.2)
    await at.saver.save()
    assert at.track.abandoned.is_set()
    assert RowsMissing("journal", 3) in at.telemetry_events
    assert await at.saved() == Cursor("e1", 1)


@in_virtual_time
async def test_nothing_is_saved_while_postgresql_is_down(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    at.servers.database.lost(REFUSED)
    asked = at.link.calls
    await at.saver.save()
    assert at.link.calls == asked


@in_virtual_time
async def test_a_cursor_that_another_listener_has_locked_is_saved_later_and_the_others_now(
    clock: VirtualClock,
) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    await at.end(at.receive(2, on=at.other))
    at.link.next_errors = [RowLocked("cursors")]
    await at.saver.save()
    assert (await at.saved(), await at.saved("other")) == (None, Cursor("e1", 2))
    await at.saver.save()
    assert await at.saved() == Cursor("e1", 1)


@in_virtual_time
async def test_an_outage_in_the_midst_of_a_save_leaves_the_cursor_for_later(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    at.link.error = ConnectionResetError("gone")
    await at.saver.save()
    assert (at.track.saved, at.telemetry_events) == (Cursor("e1", 0), [])
    at.link.error = None
    await at.saver.save()
    assert await at.saved() == Cursor("e1", 1)


@in_virtual_time
async def test_the_cursor_of_a_superseded_track_is_left_alone(clock: VirtualClock) -> None:
    at = Saving(clock)
    await at.end(at.receive(1))
    at.track.abandon()
    await at.saver.save()
    assert await at.saved() is None


@in_virtual_time
async def test_a_gap_is_recorded_and_passed_once_all_before_it_is_saved(clock: VirtualClock) -> None:
    at = Saving(clock)
    before = at.receive(2)
    at.track.skip(Gap(first=3, last=5))
    await at.end(before[:1])
    await at.saver.save()
    assert (await at.saved(), at.servers.postgres.tables.gaps) == (Cursor("e1", 1), [])
    await at.end(before[1:])
    await at.end(at.receive(1))
    await at.saver.save()
    assert at.servers.postgres.tables.gaps == [("journal", "e1", 3, 5, "skipped")]
    assert (await at.saved(), at.telemetry_events[-1]) == (Cursor("e1", 5), GapNoted("journal", 3, 5))
    await at.saver.save()
    assert await at.saved() == Cursor("e1", 6)


@in_virtual_time
async def test_a_gap_in_a_journal_that_the_database_has_never_seen_is_read_again(clock: VirtualClock) -> None:
    at = Saving(clock)
    before_everything = at.servers.postgres.snapshot()
    await at.end(at.receive(1))
    await at.saver.save()
    at.track.skip(Gap(first=2, last=3))
    at.servers.postgres.fail_over(before_everything)
    await at.saver.save()
    assert at.track.abandoned.is_set()
    assert at.servers.postgres.tables.gaps == []


@in_virtual_time
async def test_cursors_are_saved_about_every_second(clock: VirtualClock) -> None:
    at = Saving(clock)
    async with running(at.saver.save_loop()):
        for n in range(1, 6):
            await at.end(at.receive(1))
            await clock.sleep(1.2)
            assert await at.saved() == Cursor("e1", n)
