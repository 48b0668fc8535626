"""The journal as a service: a writer thread commits all waiting appends in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from oncecast.core.clock import Clock, unix_us
from oncecast.core.errors import JournalCorrupt, JournalFull, JournalMisplaced, JournalUnavailable
from oncecast.core.journal import JournalBatch, KnownGroup, divide, up_to
from oncecast.core.telemetry import JournalDamaged, JournalFailed, JournalOpened, Record
from oncecast.core.wire import Epoch
from oncecast.journal import file
from oncecast.journal.place import JournalPlace

READ_DEADLINE_S = 30.0

OnCommit = Callable[[Sequence[JournalBatch]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """The size of frames, and the limits of what waits for the disk."""

    frame_max_bytes: int = 1024 * 1024
    pending_max_bytes: int = 64 * 1024 * 1024
    append_deadline_s: float = 30.0
    reopen_interval_s: float = 1.0
    """The wait after a failure before the file is opened again."""
    check_interval_s: float = 0.5
    """How often an idle journal checks that its files are still at their places."""


@dataclass(slots=True, eq=False)
class _Append:
    done: asyncio.Future[Any]
    events: Sequence[bytes]
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Job:
    """A maintenance job for the writing thread."""

    done: asyncio.Future[Any]
    run: Callable[[apsw.Connection], Any]


class SqliteJournal:
    """The Journal of `core.ports` in the SQLite file at `path`. Create it with `SqliteJournal.open`.

    A failed commit refuses its appends. Then the file is closed, opened again, checked, and given a new epoch before
    the next append, so that remains of a failed sync are never acknowledged.

    After each commit the files must still be at their places. While they are not, every append is refused. The
    connections stay open, so that readers still get accepted events.
    """

    def __init__(self, path: Path, clock: Clock, limits: JournalLimits, record: Record) -> None:
        self._path = path
        self._clock = clock
        self._limits = limits
        self._place = JournalPlace(path)
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._callbacks: list[OnCommit] = []
        self._work: queue.SimpleQueue[_Append | _Job | None] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._closing = False
        self._failed_at_s: float | None = None
        self._connection: apsw.Connection | None = None
        self._misplaced = False
        self._reported: str | None = None
        self._written = 0  # used by the writing thread only; `last` follows on the loop
        self._reading = ThreadPoolExecutor(1, "journal-read")
        self._reader: apsw.Connection | None = None
        self._writer = threading.Thread(target=self._write_loop, name="journal-write")
        self.name = ""
        self.key = ""
        self.epochs: list[Epoch] = []
        self.first = 1
        self.last = 0
        self.used_bytes = 0
        self.groups: dict[str, KnownGroup] = {}
        self.failing: JournalUnavailable | None = None
        self._damage: JournalCorrupt | None = None

    @classmethod
    async def open(
        cls, path: Path, clock: Clock, *, limits: JournalLimits = JournalLimits(), record: Record
    ) -> SqliteJournal:
        """Open the journal, or create it; raises StartError or JournalUnavailable."""
        journal = cls(path, clock, limits, record)
        try:
            await asyncio.to_thread(journal._open)
            await journal._loop.run_in_executor(journal._reading, journal._open_reader)
        except BaseException as error:
            await journal._abandon()
            if isinstance(error, apsw.Error | OSError):
                raise _as_unavailable(error, path) from error
            raise
        journal._writer.start()
        await clock.sleep(0)  # let the loop run the callbacks of `_open` first
        return journal

    @property
    def damage(self) -> str | None:
        """Return the last damage that a read found, while its offsets are kept."""
        return str(self._damage) if self._damage is not None and self._damage.last >= self.first else None

    async def append(self, events: Sequence[bytes]) -> int:
        """Append events in one commit, and return the first offset; raises JournalUnavailable."""
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        size_bytes = sum(map(len, events))
        if self._pending_bytes and self._pending_bytes + size_bytes > self._limits.pending_max_bytes:
            raise JournalUnavailable("the journal is overloaded: too many bytes wait for the disk")
        append = _Append(self._loop.create_future(), events, size_bytes)
        self._pending_bytes += size_bytes
        # A commit cannot be undone, so its outcome is unknown to a caller that stops waiting.
        first: int = await self._outcome(append, "; whether these events were written is unknown")
        return first

    async def read(self, after: int, max_bytes: int, max_events: int | None = None) -> list[JournalBatch]:
        """Read batches after an offset; raises JournalUnavailable or JournalCorrupt."""
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                return await self._loop.run_in_executor(self._reading, self._read, after, max_bytes, max_events)
        except JournalCorrupt as error:
            if self._damage is None or str(self._damage) != str(error):
                self._record(JournalDamaged(str(error)))
            self._damage = error
            raise
        except TimeoutError:
            raise JournalUnavailable(f"the disk of the journal {self._path} does not respond") from None

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """Save groups durably; raises JournalUnavailable."""
        await self._do(partial(file.keep_groups, groups=groups))
        self.groups |= {group.name: group for group in groups}

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Delete old batches, a few at a time so that appends do not wait for long."""
        going_on = True
        while going_on:
            self.first, self.used_bytes, going_on = await self._do(
                partial(file.retire, upto=upto, before_us=before_us, keep_bytes=keep_bytes)
            )

    async def _do(self, run: Callable[[apsw.Connection], Any]) -> Any:
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        return await self._outcome(_Job(self._loop.create_future(), run))

    async def _outcome(self, work: _Append | _Job, consequence: str = "") -> Any:
        """Give `work` to the writing thread, and wait for its result until the deadline."""
        self._work.put(work)
        try:
            await asyncio.wait([work.done], timeout=self._limits.append_deadline_s)
            if not work.done.done():
                # If the event loop is late, the outcome is queued behind the deadline.
                await self._clock.sleep(0)
            if work.done.done():
                return work.done.result()
        finally:
            work.done.cancel()  # the caller no longer waits
        raise JournalUnavailable(f"the disk of the journal {self._path} does not respond{consequence}")

    def on_commit(self, callback: OnCommit) -> None:
        """Call `callback` on the event loop after each commit."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Finish waiting work, and close the file. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._work.put(None)
        await self._loop.run_in_executor(self._reading, self._close_reader)
        self._reading.shutdown()
        await asyncio.to_thread(self._writer.join)  # the writer must close last, because that cleans up
        self._place.close()

    async def _abandon(self) -> None:
        """Clean up after a failed open, before the writing thread runs."""
        await self._loop.run_in_executor(self._reading, self._close_reader)
        self._reading.shutdown()
        self._give_up()
        self._place.close()

    # --- the reading thread --------------------------------------------------------------------------------

    def _read(self, after: int, max_bytes: int, max_events: int | None) -> list[JournalBatch]:
        batches: list[JournalBatch] = []
        try:
            for batch in up_to(file.read(self._open_reader(), after), after, max_bytes, max_events):
                batches.append(batch)
        except (apsw.Error, OSError) as error:
            self._close_reader()
            raise _as_unavailable(error, self._path) from error
        except JournalCorrupt:
            if not batches:
                raise
        return batches

    def _open_reader(self) -> apsw.Connection:
        if self._reader is None:
            self._place.check()
            reader = file.open_file(self._path, read_only=True)
            try:
                reader.execute("select 1 from batches limit 1").get  # noqa: B018 - opens the log, too
                self._place.check()  # the file just opened is the journal's own
            except BaseException:
                reader.close()
                raise
            self._reader = reader
        return self._reader

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(apsw.Error, OSError):
                reader.close()

    # --- the writing thread --------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        stopping = False
        while not stopping:
            try:
                group, jobs, stopping = self._gather()
            except queue.Empty:
                self._check_idle()
                continue
            if group:
                try:
                    batches = self._commit(group)
                except Exception as error:  # after any error the outcome is unknown: check the file first
                    self._on_failure(error)
                    self._call_on_loop(self._refused, group, _as_unavailable(error, self._path))
                else:
                    self._call_on_loop(self._committed, group, batches)
            for job in jobs:
                self._run(job)
        if self._connection is not None:
            with contextlib.suppress(apsw.Error, OSError):  # every commit is on disk already
                self._connection.close()

    def _gather(self) -> tuple[list[_Append], list[_Job], bool]:
        """Wait for work, and take everything that is queued; the flag says whether to stop afterwards.

        Raises queue.Empty after `check_interval_s`.
        """
        group: list[_Append] = []
        jobs: list[_Job] = []
        item = self._work.get(timeout=self._limits.check_interval_s)
        while item is not None:
            if isinstance(item, _Append):
                group.append(item)
            else:
                jobs.append(item)
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                return group, jobs, False
        return group, jobs, True

    def _run(self, job: _Job) -> None:
        try:
            result = job.run(self._checked())
            self._place.check()
        except Exception as error:  # as after a failed commit
            self._on_failure(error)
            self._call_on_loop(_fail, job.done, _as_unavailable(error, self._path))
        else:
            self._call_on_loop(_succeed, job.done, result)

    def _check_idle(self) -> None:
        """While idle, notice that the files are gone or that the journal works again."""
        if self._connection is None and self._has_just_failed:
            return
        try:
            self._checked()
            self._place.check()
        except Exception as error:
            self._on_failure(error)
            reason = _as_unavailable(error, self._path)
            if str(reason) != self._reported:
                self._call_on_loop(self._refused, [], reason)
            self._reported = str(reason)
        else:
            self._reported = None

    def _checked(self) -> apsw.Connection:
        """Return the connection; after a failure, open a new one and check the file."""
        if self._misplaced:
            self._place.check()
            self._give_up()  # the files are back, and may contain refused appends: open them as after a failure
            self._failed_at_s = None
        if self._connection is None:
            if self._has_just_failed:
                raise JournalUnavailable(f"the journal {self._path} failed, and the producer is checking it")
            self._open()
        assert self._connection is not None  # noqa: S101 - _open made it
        return self._connection

    @property
    def _has_just_failed(self) -> bool:
        return self._failed_at_s is not None and not self._is_long_ago(self._failed_at_s)

    def _is_long_ago(self, failed_at_s: float) -> bool:
        return self._clock.monotonic_s() - failed_at_s >= self._limits.reopen_interval_s

    def _commit(self, group: list[_Append]) -> list[JournalBatch]:
        connection = self._checked()
        events = [event for append in group for event in append.events]
        batches = divide(events, self._written + 1, unix_us(self._clock), self._limits.frame_max_bytes)
        file.write(connection, batches)
        self._place.check()  # before the answer: a file without its name would be lost at the next start
        self._written = batches[-1].last_offset
        return batches

    def _open(self) -> None:
        self._place.check_file()
        connection = file.open_file(self._path)
        try:
            extent = file.begin_epoch(connection, self._path, self._clock)
            self._place.opened()
        except BaseException:
            connection.close()
            raise
        self._connection, self._failed_at_s, self._written = connection, None, extent.last
        self._call_on_loop(self._opened, extent)

    def _on_failure(self, error: Exception) -> None:
        """Close the connection after an error; keep it open for readers if only the files were moved."""
        if not isinstance(error, JournalMisplaced):
            self._give_up()
        elif not self._misplaced and self._connection is not None:
            self._misplaced = True
            with contextlib.suppress(apsw.Error, OSError):  # the log may be without a name: copy it to the database
                self._connection.execute("pragma wal_checkpoint(passive)")

    def _give_up(self) -> None:
        """Close the connection. Further failures do not delay the next attempt to open it."""
        if self._failed_at_s is None or self._is_long_ago(self._failed_at_s):
            self._failed_at_s = self._clock.monotonic_s()
        connection, self._connection, self._misplaced = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(apsw.Error, OSError):  # after a failure, closing may fail, too
                connection.close(True)

    def _call_on_loop(self, *call: object) -> None:
        function, *arguments = call
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            return  # the loop has ended, so no caller waits

    # --- back on the loop ----------------------------------------------------------------------------------

    def _opened(self, extent: file.Extent) -> None:
        self.name, self.key, self.epochs, self.first, self.last, self.used_bytes, groups = extent
        self.groups = {group.name: group for group in groups}
        self.failing = None
        self._record(JournalOpened(extent.name, extent.epochs[-1].epoch, extent.first, extent.last))

    def _committed(self, group: list[_Append], batches: list[JournalBatch]) -> None:
        offset = batches[0].first_offset
        self.last = batches[-1].last_offset
        self.used_bytes += sum(len(batch.body) for batch in batches)
        for append in group:
            self._pending_bytes -= append.size_bytes
            _succeed(append.done, offset)
            offset += len(append.events)
        for callback in self._callbacks:
            callback(batches)

    def _refused(self, group: list[_Append], error: JournalUnavailable) -> None:
        self.failing = error
        self._record(JournalFailed(str(error)))
        for append in group:
            self._pending_bytes -= append.size_bytes
            _fail(append.done, error)


def _succeed(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():  # the caller may have stopped waiting
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


def _as_unavailable(error: BaseException, path: Path) -> JournalUnavailable:
    if isinstance(error, JournalUnavailable):
        return error
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno == 28):
        return JournalFull(f"the disk of the journal {path} is full")
    return JournalUnavailable(f"the journal {path} failed: {type(error).__name__}: {error}")
