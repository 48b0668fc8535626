"""The journal as a service: appends that wait at the same time share one commit of one writer thread."""

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
from oncecast.core.ports import JournalBatch, KnownGroup
from oncecast.core.telemetry import Emit, JournalDamaged, JournalFailed, JournalOpened
from oncecast.core.wire import FRAME_MAX_EVENTS, Epoch
from oncecast.journal import file
from oncecast.journal.place import JournalPlace

READ_DEADLINE_S = 30.0

OnCommit = Callable[[Sequence[JournalBatch]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """How large frames are, how much may wait for the disk, and how long."""

    frame_max_bytes: int = 1024 * 1024
    pending_max_bytes: int = 64 * 1024 * 1024
    append_deadline_s: float = 30.0
    reopen_interval_s: float = 1.0
    """After a failure, before the file is opened again."""
    look_interval_s: float = 0.5
    """While nothing is appended: whether the files are still at their places."""


@dataclass(slots=True, eq=False)
class _Append:
    events: Sequence[bytes]
    size_bytes: int
    done: asyncio.Future[int]


@dataclass(slots=True, eq=False)
class _Job:
    """Upkeep, done by the one who writes."""

    run: Callable[[apsw.Connection], Any]
    done: asyncio.Future[Any]


class SqliteJournal:
    """The Journal of `core.ports` in the SQLite file at `path`. Made with `SqliteJournal.open`.

    A commit that fails refuses its appends; then the file is closed, opened again, checked, and given a new
    epoch, before anything else is taken: what a failed sync left behind can so never pass for acknowledged.

    After each commit the files must still be at their places. While they are not, every append is refused, and the
    connections stay open: readers still get what was accepted.
    """

    def __init__(self, path: Path, clock: Clock, limits: JournalLimits, emit: Emit) -> None:
        self._path = path
        self._clock = clock
        self._limits = limits
        self._place = JournalPlace(path)
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._callbacks: list[OnCommit] = []
        self._appends: queue.SimpleQueue[_Append | _Job | None] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._closing = False
        self._failed_at_s: float | None = None
        self._connection: apsw.Connection | None = None
        self._misplaced = False
        self._reported: str | None = None
        self._written = 0  # the writing thread's own; `last` follows on the loop
        self._reading = ThreadPoolExecutor(1, "journal-read")
        self._reader: apsw.Connection | None = None
        self._writer = threading.Thread(target=self._write_for_ever, name="journal-write")
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
        cls, path: Path, clock: Clock, *, limits: JournalLimits = JournalLimits(), emit: Emit
    ) -> SqliteJournal:
        """Open the journal, made where there is none; raises StartError or JournalUnavailable."""
        journal = cls(path, clock, limits, emit)
        try:
            await asyncio.to_thread(journal._open)
            await journal._loop.run_in_executor(journal._reading, journal._open_reader)
        except BaseException as error:
            await journal._abandon()
            if isinstance(error, apsw.Error | OSError):
                raise _translate(error, path) from error
            raise
        journal._writer.start()
        await clock.sleep(0)  # what the opening has told the loop comes first
        return journal

    @property
    def damage(self) -> str | None:
        """See Journal."""
        return str(self._damage) if self._damage is not None and self._damage.last >= self.first else None

    async def append(self, events: Sequence[bytes]) -> int:
        """See Journal."""
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        size_bytes = sum(map(len, events))
        if self._pending_bytes and self._pending_bytes + size_bytes > self._limits.pending_max_bytes:
            raise JournalUnavailable("the journal is behind: too much waits for the disk")
        append = _Append(events, size_bytes, self._loop.create_future())
        self._pending_bytes += size_bytes
        self._appends.put(append)
        try:
            await asyncio.wait([append.done], timeout=self._limits.append_deadline_s)
            if not append.done.done():
                # The event loop may be late: then the outcome is queued behind the deadline.
                await self._clock.sleep(0)
            if append.done.done():
                return append.done.result()
        finally:
            append.done.cancel()  # nobody waits any more
        # The commit cannot be taken back: a caller that stops waiting does not know its outcome.
        raise JournalUnavailable(
            f"the disk of the journal {self._path} does not answer; whether these events are there is unknown"
        )

    async def read(self, after: int, max_bytes: int, max_events: int | None = None) -> list[JournalBatch]:
        """See Journal."""
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                return await self._loop.run_in_executor(self._reading, self._read, after, max_bytes, max_events)
        except JournalCorrupt as error:
            if self._damage is None or str(self._damage) != str(error):
                self._emit(JournalDamaged(str(error)))
            self._damage = error
            raise
        except TimeoutError:
            raise JournalUnavailable(f"the disk of the journal {self._path} does not answer") from None

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """See Journal."""
        await self._do(partial(file.keep_groups, groups=groups))
        self.groups |= {group.name: group for group in groups}

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """See Journal. A little at a time, so that appends do not wait for long."""
        going_on = True
        while going_on:
            self.first, self.used_bytes, going_on = await self._do(
                partial(file.retire, upto=upto, before_us=before_us, keep_bytes=keep_bytes)
            )

    async def _do(self, run: Callable[[apsw.Connection], Any]) -> Any:
        if self._closing:
            raise JournalUnavailable(f"the journal {self._path} is closed")
        job = _Job(run, self._loop.create_future())
        self._appends.put(job)
        try:
            async with asyncio.timeout(self._limits.append_deadline_s):
                return await job.done
        except TimeoutError:
            raise JournalUnavailable(f"the disk of the journal {self._path} does not answer") from None

    def on_commit(self, callback: OnCommit) -> None:
        """See Journal."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Finish what waits, and let go of the file; a second time does nothing."""
        if self._closing:
            return
        self._closing = True
        self._appends.put(None)
        await self._loop.run_in_executor(self._reading, self._close_reader)
        self._reading.shutdown()
        await asyncio.to_thread(self._writer.join)  # the last to close tidies up, and only the writer may
        self._place.close()

    async def _abandon(self) -> None:
        """The opening has failed: nothing runs yet."""
        await self._loop.run_in_executor(self._reading, self._close_reader)
        self._reading.shutdown()
        self._give_up()
        self._place.close()

    # --- the reading thread --------------------------------------------------------------------------------

    def _read(self, after: int, max_bytes: int, max_events: int | None) -> list[JournalBatch]:
        batches: list[JournalBatch] = []
        size_bytes = 0
        try:
            for batch in file.read(self._open_reader(), after):
                size_bytes += len(batch.body)
                if batches and size_bytes > max_bytes:
                    break
                batches.append(batch)
                if max_events is not None and batch.last_offset >= after + max_events:
                    break
        except (apsw.Error, OSError) as error:
            self._close_reader()
            raise _translate(error, self._path) from error
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
                self._place.check()  # it is the journal's own file that was opened
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

    def _write_for_ever(self) -> None:
        stopping = False
        while not stopping:
            try:
                group, jobs, stopping = self._gather()
            except queue.Empty:
                self._look()
                continue
            if group:
                try:
                    batches = self._commit(group)
                except Exception as error:  # whatever it was: the outcome is unknown, so the file is checked first
                    self._distrust(error)
                    self._tell(self._refused, group, _translate(error, self._path))
                else:
                    self._tell(self._committed, group, batches)
            for job in jobs:
                self._run(job)
        if self._connection is not None:
            with contextlib.suppress(apsw.Error, OSError):  # every commit is on disk already
                self._connection.close()

    def _gather(self) -> tuple[list[_Append], list[_Job], bool]:
        """Wait for something to do, and take with it all that came meanwhile; whether to stop afterwards.

        Raises queue.Empty after `look_interval_s`.
        """
        group: list[_Append] = []
        jobs: list[_Job] = []
        item = self._appends.get(timeout=self._limits.look_interval_s)
        while item is not None:
            if isinstance(item, _Append):
                group.append(item)
            else:
                jobs.append(item)
            try:
                item = self._appends.get_nowait()
            except queue.Empty:
                return group, jobs, False
        return group, jobs, True

    def _run(self, job: _Job) -> None:
        try:
            result = job.run(self._checked())
            self._place.check()
        except Exception as error:  # as after a commit
            self._distrust(error)
            self._tell(_fail, job.done, _translate(error, self._path))
        else:
            self._tell(_succeed, job.done, result)

    def _look(self) -> None:
        """While nothing is appended: notice that the files are gone, or that the journal works again."""
        if self._connection is None and self._has_just_failed:
            return
        try:
            self._checked()
            self._place.check()
        except Exception as error:
            self._distrust(error)
            reason = _translate(error, self._path)
            if str(reason) != self._reported:
                self._tell(self._refused, [], reason)
            self._reported = str(reason)
        else:
            self._reported = None

    def _checked(self) -> apsw.Connection:
        """The connection; after a failure it is made anew, and the file checked."""
        if self._misplaced:
            self._place.check()
            self._give_up()  # they are there again: what was refused meanwhile may be in them
            self._failed_at_s = None
        if self._connection is None:
            if self._has_just_failed:
                raise JournalUnavailable(f"the journal {self._path} failed and is being checked")
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
        self._place.check()  # before anybody is answered: a file without its name is gone at the next start
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
        self._tell(self._opened, extent)

    def _distrust(self, error: Exception) -> None:
        """After an error: the connection is of no use, except to read from where the files are gone."""
        if not isinstance(error, JournalMisplaced):
            self._give_up()
        elif not self._misplaced and self._connection is not None:
            self._misplaced = True
            with contextlib.suppress(apsw.Error, OSError):  # a log without a name: save into the database what it has
                self._connection.execute("pragma wal_checkpoint(passive)")

    def _give_up(self) -> None:
        """Trust nothing of this connection any more; refusals meanwhile do not put the check off."""
        if self._failed_at_s is None or self._is_long_ago(self._failed_at_s):
            self._failed_at_s = self._clock.monotonic_s()
        connection, self._connection, self._misplaced = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(apsw.Error, OSError):  # it has failed, and may fail at closing too
                connection.close(True)

    def _tell(self, *call: object) -> None:
        function, *arguments = call
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            return  # the loop has ended, and with it everybody who could have waited

    # --- back on the loop ----------------------------------------------------------------------------------

    def _opened(self, extent: file.Extent) -> None:
        self.name, self.key, self.epochs, self.first, self.last, self.used_bytes, groups = extent
        self.groups = {group.name: group for group in groups}
        self.failing = None
        self._emit(JournalOpened(extent.name, extent.epochs[-1].epoch, extent.first, extent.last))

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
        self._emit(JournalFailed(str(error)))
        for append in group:
            self._pending_bytes -= append.size_bytes
            _fail(append.done, error)


def _succeed(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():  # whoever waited may have given up
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


def divide(events: Sequence[bytes], first_offset: int, at_us: int, frame_max_bytes: int) -> list[JournalBatch]:
    """Rows of at most `frame_max_bytes`, or one larger event; and of at most FRAME_MAX_EVENTS."""
    batches: list[JournalBatch] = []
    begin = size_bytes = 0
    for index, event in enumerate(events):
        is_full = index - begin == FRAME_MAX_EVENTS or size_bytes + len(event) + 2 > frame_max_bytes
        if size_bytes and is_full:
            batches.append(_batch(events[begin:index], first_offset + begin, at_us))
            begin, size_bytes = index, 0
        size_bytes += len(event) + 1
    batches.append(_batch(events[begin:], first_offset + begin, at_us))
    return batches


def _batch(events: Sequence[bytes], first_offset: int, at_us: int) -> JournalBatch:
    return JournalBatch(first_offset, len(events), at_us, b"[" + b",".join(events) + b"]")


def _translate(error: BaseException, path: Path) -> JournalUnavailable:
    if isinstance(error, JournalUnavailable):
        return error
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno == 28):
        return JournalFull(f"no room on the disk of the journal {path}")
    return JournalUnavailable(f"the journal {path} failed: {type(error).__name__}: {error}")
