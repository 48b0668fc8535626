"""The publisher for code without an event loop: a `Publisher` on an event loop in its own thread.

The thread starts with the first call, so that a web server may create the object before it forks its workers.
A forked process starts its own thread and connections.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Self, TypeVar

from oncecast.client.errors import PublisherClosed
from oncecast.client.outbox import check_several, encode_event
from oncecast.client.publisher import CHUNK_BYTES, CHUNK_EVENTS, REQUEST_TIMES, EventLike, Publisher
from oncecast.client.transport import RequestTimes
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.event import Cursor

CLOSE_DEADLINE_S = 5.0

ResultT = TypeVar("ResultT")


class SyncPublisher:
    """A `Publisher` for scripts, Django and Flask: `with SyncPublisher("http://localhost:8080") as publisher: …`

    It takes the same arguments. Several threads may share one: events that they publish at the same time share
    requests. It may live as long as the process; calling `close()` is optional. After a fork, it works in the child,
    with new connections.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | None = None,
        deadline_s: float = 60.0,
        batch_events_max: int = 4000,
        batch_bytes_max: int = 1024 * 1024,
        requests_max: int = 3,
        on_trouble: Callable[[str], None] | None = None,
        id_at: Sequence[str] = (),
        times: RequestTimes = REQUEST_TIMES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        def make() -> Publisher:
            return Publisher(
                url,
                token=token,
                deadline_s=deadline_s,
                batch_events_max=batch_events_max,
                batch_bytes_max=batch_bytes_max,
                requests_max=requests_max,
                on_trouble=on_trouble,
                id_at=id_at,
                times=times,
                clock=clock,
            )

        self._make = make
        self._closed = False
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None
        self._publisher: Publisher | None = make()  # created here, to report an invalid address at once
        _all.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, event: EventLike) -> Cursor:
        """Publish one event, and return its place in the journal once it is on the producer's disk.

        Raises PublishRefused, NotAcknowledged or PublisherClosed.
        """
        return _result(self._submit(lambda publisher: publisher.publish(event)))

    def publish_many(self, events: Iterable[EventLike], *, in_order: bool = True) -> int:
        """Publish all `events` in batches, and return their number once all are accepted.

        The journal keeps their order: a batch is sent when the previous one is acknowledged. With `in_order=False`,
        up to `requests_max` batches are sent at a time, in any order, which is faster, especially if the producer is
        far away.

        The iterable is read in the caller's thread, only as fast as the producer accepts events. Raises
        PublishRefused or NotAcknowledged at the first batch that fails, after the current requests have ended; both
        tell how many events were accepted. In order, no later event was sent. An exception of the iterable is raised
        as it is; earlier events may be accepted.
        """
        check_several(events)
        handover = _Handover()
        publishing = self._submit(lambda publisher: publisher.publish_json(handover.chunks(), in_order=in_order))
        publishing.add_done_callback(lambda _: handover.end())
        try:
            for event in events:
                if not handover.give(encode_event(event)):
                    break  # publishing failed: the result has the error
        except BaseException:
            publishing.cancel()
            raise
        handover.end()
        return _result(publishing)

    def close(self) -> None:
        """Close the connections and end the thread. Calls of other threads raise PublisherClosed."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._end_thread()
            thread.join()

    def _submit(self, work: Callable[[Publisher], Coroutine[Any, Any, ResultT]]) -> Future[ResultT]:
        with self._lock:
            if self._closed:
                raise PublisherClosed
            if self._publisher is None:
                self._publisher = self._make()
            if self._thread is None:
                self._thread = _LoopThread()
                # End the thread if the object is garbage-collected without `close`.
                self._end_thread = weakref.finalize(self, self._thread.end, self._publisher)
                self._end_thread.atexit = False
            return self._thread.submit(work(self._publisher))

    def _reset_after_fork(self) -> None:
        """Reset in a forked child. Never touch the parent's objects: closing them would affect the parent."""
        if self._thread is not None:
            self._end_thread.detach()
            _of_the_parent.append((self._thread, self._publisher))
        self._lock = threading.Lock()  # a thread that was not forked may hold the old lock
        self._thread = self._publisher = None


class _LoopThread:
    """An event loop in a daemon thread, which does not keep the process alive."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="oncecast-publisher", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> Future[ResultT]:
        """Run `work` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def end(self, publisher: Publisher) -> None:
        """Close the publisher, cancel other work, and end the loop. Does not wait."""
        self.submit(self._end(publisher))

    def join(self) -> None:
        """Wait until the thread has ended, at most a little longer than CLOSE_DEADLINE_S."""
        self._thread.join(CLOSE_DEADLINE_S + 1.0)

    async def _end(self, publisher: Publisher) -> None:
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await publisher.aclose()
        finally:
            self._loop.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


class _Handover:
    """Passes events from the caller's thread to the loop; a batch is all events that have accumulated."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._wake: Callable[[], object] | None = None
        """Wakes the loop while it waits."""

    def give(self, event: bytes) -> bool:
        """Wait for room and add an event; return False if publishing has ended."""
        with self._changed:
            while not self._ended and (len(self._pending) >= CHUNK_EVENTS or self._bytes >= CHUNK_BYTES):
                self._changed.wait()
            if self._ended:
                return False
            self._pending.append(event)
            self._bytes += len(event)
            self._wake_loop()
            return True

    def end(self) -> None:
        """End the iteration, from either side."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._wake_loop()

    def _wake_loop(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    async def chunks(self) -> AsyncIterator[tuple[list[bytes], range]]:
        """Yield the accumulated events and their positions from 1. Runs on the loop."""
        loop = asyncio.get_running_loop()
        first = 1
        while True:
            filled = asyncio.Event()
            with self._changed:
                pending, self._pending, self._bytes = self._pending, [], 0
                if not pending and not self._ended:
                    self._wake = partial(loop.call_soon_threadsafe, filled.set)
                self._changed.notify_all()
                ended = self._ended
            if pending:
                yield pending, range(first, first + len(pending))
                first += len(pending)
            elif ended:
                return
            else:
                await filled.wait()


def _result(future: Future[ResultT]) -> ResultT:
    """Wait for the result; an interruption (Ctrl-C) cancels the work."""
    try:
        return future.result()
    except CancelledError:
        raise PublisherClosed from None
    except BaseException:
        future.cancel()
        raise


_all: weakref.WeakSet[SyncPublisher] = weakref.WeakSet()
_of_the_parent: list[object] = []


def _after_fork_in_child() -> None:
    for publisher in list(_all):
        publisher._reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
