"""How a saved cursor moves: it never passes an event without a row, whatever happens to the journal."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oncecast.core.cursors import (
    JournalGap,
    Save,
    SavedCursor,
    beginning,
    decide_adoption,
    decide_gap,
    decide_save,
    decide_unlocked_save,
    offset_in,
    reach,
)
from oncecast.core.event import Cursor
from oncecast.core.ranges import EndedRange
from oncecast.core.wire import Epoch, epoch_of, resume_after

EPOCHS = [Epoch("e1", 1)]
DIVERGED = [*EPOCHS, Epoch("e9", 3)]
LATER = [*EPOCHS, Epoch("e2", 3)]
AT_5 = SavedCursor(Cursor("e1", 5), EPOCHS)


def ended(first: int, last: int, epoch: str = "e1") -> EndedRange:
    return EndedRange("journal", epoch, first, last)


def save(saved: SavedCursor, reached: int, proved: int, position: Cursor) -> tuple[Save, SavedCursor | None]:
    """Decide a save where the recorded ranges reach up to `reached`."""
    return decide_save(saved, EPOCHS, reached, position=position, proved=proved)


def test_recorded_ranges_reach_as_far_as_they_touch_or_overlap() -> None:
    recorded = [ended(4, 6), ended(6, 6), ended(7, 9), ended(8, 12), ended(14, 15)]
    assert reach(5, EPOCHS, recorded) == 12
    assert reach(2, EPOCHS, recorded) == 2


def test_a_range_of_another_history_reaches_nowhere() -> None:
    assert reach(2, LATER, [ended(3, 4, "e1"), ended(3, 3, "e2")]) == 3


def test_the_cursor_moves_over_the_recorded_ranges() -> None:
    reached = Cursor("e1", 8)
    assert save(AT_5, 8, 8, AT_5.cursor) == (Save(reached, missing=False), SavedCursor(reached, EPOCHS))


def test_a_range_that_the_caller_knows_to_be_recorded_and_that_is_not_there_is_missing() -> None:
    reached = Cursor("e1", 7)
    assert save(AT_5, 7, 8, AT_5.cursor) == (Save(reached, missing=True), SavedCursor(reached, EPOCHS))
    assert save(AT_5, 5, 6, AT_5.cursor) == (Save(AT_5.cursor, missing=True), None)


def test_a_listener_with_nothing_to_add_gets_the_saved_cursor() -> None:
    assert save(AT_5, 5, 4, Cursor("e1", 3)) == (Save(AT_5.cursor, missing=False), None)


def test_a_cursor_before_the_position_of_the_caller_is_read_again_from_there() -> None:
    """PostgreSQL went back to an older state."""
    assert save(AT_5, 5, 0, Cursor("e1", 9)) == (Save(AT_5.cursor, missing=True), None)


def test_a_listener_that_lacks_an_epoch_of_the_cursor_does_not_move_it() -> None:
    saved = SavedCursor(Cursor("e2", 4), LATER)
    assert save(saved, 5, 5, Cursor("e1", 0)) == (Save(None, missing=True), None)
    assert decide_gap(saved, EPOCHS, first=20, after=0) == (None, None, None)


def test_a_group_begins_before_the_first_event() -> None:
    assert beginning(LATER) == SavedCursor(Cursor("e1", 0), LATER)


def test_while_another_listener_has_the_cursor_locked_nothing_is_written() -> None:
    assert decide_unlocked_save(None, EPOCHS) == Save(None, missing=False)
    assert decide_unlocked_save(AT_5, LATER) == Save(Cursor("e1", 2), missing=False)
    assert decide_unlocked_save(SavedCursor(Cursor("e9", 4), DIVERGED), LATER) == Save(None, missing=True)


def test_a_cursor_of_a_divergent_history_goes_back_to_the_common_part() -> None:
    saved = SavedCursor(Cursor("e9", 5), DIVERGED)
    assert decide_adoption(saved, LATER, instead_of=DIVERGED) == SavedCursor(Cursor("e1", 2), LATER)


def test_a_cursor_whose_epochs_have_changed_is_not_adopted() -> None:
    assert decide_adoption(AT_5, LATER, instead_of=DIVERGED) is None
    assert decide_adoption(None, LATER, instead_of=DIVERGED) is None


def test_a_gap_is_recorded_from_the_cursor_to_the_first_offset_that_can_be_served() -> None:
    epochs = [*EPOCHS, Epoch("e2", 9)]
    passed = Cursor("e2", 19)
    expected = (passed, JournalGap("e1", 6, 19), SavedCursor(passed, epochs))
    assert decide_gap(AT_5, epochs, first=20, after=0) == expected


def test_without_a_gap_the_cursor_stays() -> None:
    assert decide_gap(AT_5, EPOCHS, first=6, after=0) == (AT_5.cursor, None, None)
    assert decide_gap(None, EPOCHS, first=6, after=0) == (None, None, None)


def test_a_gap_is_not_passed_before_the_cursor_has_reached_it() -> None:
    assert decide_gap(AT_5, EPOCHS, first=20, after=6) == (AT_5.cursor, None, None)
    assert decide_gap(AT_5, EPOCHS, first=20, after=5).cursor == Cursor("e1", 19)


class Reader:
    """A listener: the epochs and events of the journal as it has read them, and the cursor that it knows."""

    def __init__(self, epochs: list[Epoch], events: list[int], position: int) -> None:
        self.epochs = epochs
        self.events = events
        self.position = position

    def cursor(self) -> Cursor:
        return Cursor(epoch_of(self.epochs, max(self.position, 1)), self.position)


class History(RuleBasedStateMachine):
    """A journal that is reopened and restored, a PostgreSQL that goes back to older states, and two listeners.

    `events` holds an identity for each offset of the journal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events = [1, 2]
        self.number = 2
        self.epochs = [Epoch("a", 1)]
        self.rows: set[int] = set()
        self.recorded: set[EndedRange] = set()
        self.saved = beginning(self.epochs)
        self.states = [(self.saved, set(self.rows), set(self.recorded))]
        self.given_up: set[int] = set()
        self.readers = [Reader(self.epochs, self.events, 0), Reader(self.epochs, self.events, 0)]

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        """The journal accepts events; connected listeners receive them."""
        self.events = [*self.events, *range(self.number + 1, self.number + count + 1)]
        self.number += count
        for reader in self.readers:
            if reader.epochs == self.epochs:
                reader.events = self.events

    @rule(lost=st.integers(0, 3))
    def open(self, lost: int) -> None:
        """The producer restarts, on a copy of the journal that lacks the last events."""
        self.events = self.events[: max(0, len(self.events) - lost)]
        self.number += 1
        known = [epoch for epoch in self.epochs if epoch.first <= max(1, len(self.events))]
        self.epochs = [*known, Epoch(f"e{self.number}", len(self.events) + 1)]

    @rule(lost=st.integers(1, 2))
    def fail_over(self, lost: int) -> None:
        """PostgreSQL goes back to an older state."""
        self.saved, rows, recorded = self.states[max(0, len(self.states) - lost)]
        self.rows, self.recorded = set(rows), set(recorded)

    @rule(which=st.integers(0, 1))
    def connect(self, which: int) -> None:
        """A listener reads the journal from the saved cursor on. This journal is not the diverged history."""
        self.saved = decide_adoption(self.saved, self.epochs, instead_of=self.saved.epochs) or self.saved
        position = offset_in(self.saved, self.epochs)
        assert position is not None
        self.readers[which] = Reader(self.epochs, self.events, position)

    @rule(which=st.integers(0, 1), count=st.integers(0, 3))
    def save(self, which: int, count: int) -> None:
        """Some events that a listener has read get rows and are recorded; then it saves the cursor.

        That never moves the cursor back.
        """
        reader = self.readers[which]
        before = self.after()
        new = reader.events[reader.position :][:count]
        self.rows.update(new)
        for offset in range(reader.position + 1, reader.position + len(new) + 1):
            self.recorded.add(ended(offset, offset, epoch_of(reader.epochs, offset)))
        start = offset_in(self.saved, reader.epochs) or 0
        recorded = sorted(each for each in self.recorded if each.last > start)
        reached = reach(start, reader.epochs, sorted(recorded, key=lambda each: each.first))
        answer, write = decide_save(self.saved, reader.epochs, reached, position=reader.cursor(), proved=0)
        self.states.append((self.saved, set(self.rows), set(self.recorded)))
        self.saved = write or self.saved
        assert self.after() >= before
        if answer.saved is not None:
            reader.position = max(reader.position, answer.saved.offset)

    @precondition(lambda self: not self.given_up)
    @rule(which=st.integers(0, 1), count=st.integers(1, 2))
    def lose(self, which: int, count: int) -> None:
        """A listener learns that the journal has lost some events behind its position."""
        reader = self.readers[which]
        first = min(reader.position + count, len(reader.events)) + 1
        cursor, gap, write = decide_gap(self.saved, reader.epochs, first=first, after=0)
        if gap is not None and write is not None:
            assert (write.cursor, gap.last) == (cursor, write.cursor.offset)
            self.given_up.update(reader.events[gap.first - 1 : gap.last])
            self.saved = write

    @invariant()
    def every_event_that_the_cursor_has_passed_has_its_row(self) -> None:
        """A reader that resumes from the saved cursor in the current journal skips no event that has not ended."""
        assert set(self.events[: self.after()]) <= self.rows | self.given_up

    def after(self) -> int:
        """Return the offset after which a listener reads the journal as it is."""
        return resume_after(self.saved.cursor, self.saved.epochs, self.epochs)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=200, stateful_step_count=25)
