"""Read events from a file or a pipe: NDJSON as a stream, in constant memory, or one JSON array at once.

Lines stay bytes. Each must be a JSON object, and gets an id if it has none. The producer validates the event.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence

import msgspec

from oncecast.core.errors import OncecastError
from oncecast.event import new_id

BLOCK_BYTES = 512 * 1024
LINE_BYTES_MAX = 16 * 1024 * 1024
"""A longer line is refused: no producer accepts a request of this size."""

_BOM = b"\xef\xbb\xbf"

EventRun = tuple[Sequence[bytes], Sequence[int]]
"""Events as JSON objects, and for each its line number or its position in the array."""


class BadInput(OncecastError):
    """A line, or an element of the array, is not a JSON object; has its number."""


class _Head(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw()


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_heads = msgspec.json.Decoder(list[_Head]).decode
_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


class EventsFile:
    """The events in an open file descriptor."""

    def __init__(self, fd: int, *, gives_ids: bool = True) -> None:
        self._fd = fd
        self._gives_ids = gives_ids
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self.size_bytes = os.fstat(fd).st_size if self._is_file else None
        self.read_bytes = 0
        self.noun = "line"
        """The unit of the numbers: `line` or `element`."""
        self.ids_given = 0

    async def runs(self) -> AsyncIterator[EventRun]:
        """Yield all events, in runs, as soon as they are read. Raises BadInput after the runs before it; OSError."""
        start = await self._read_start()
        if start.lstrip().startswith(b"["):
            self.noun = "element"
            yield await self._read_array(start)
            return
        lines = LineSplitter()
        block = start
        while block:
            events, first = lines.feed(block)
            if events:
                yield self._checked(events, range(first, first + len(events)))
            block = await self._read_block()
        events, first = lines.finish()
        yield self._checked(events, range(first, first + len(events)))

    async def _read_start(self) -> bytes:
        """Read the start, enough to tell an array from lines; drop a byte order mark."""
        start = b""
        while block := await self._read_block():
            start += block
            text = start.removeprefix(_BOM)
            if not _BOM.startswith(start) and text.strip():
                return text
            if len(start) > LINE_BYTES_MAX:
                break  # only white space so far: treat it as lines
        return start.removeprefix(_BOM)

    async def _read_array(self, start: bytes) -> EventRun:
        blocks = [start]
        while block := await self._read_block():
            blocks.append(block)
        try:
            elements = [bytes(element) for element in _decode_elements(b"".join(blocks))]
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BadInput(f"not a JSON array: {error}") from None
        return self._checked(elements, range(1, len(elements) + 1))

    async def _read_block(self) -> bytes:
        if not self._is_file:
            await _readable(self._fd)
        # A regular file is always "readable"; blocking on the disk is fine, as this process does nothing else.
        block = os.read(self._fd, BLOCK_BYTES)
        self.read_bytes += len(block)
        return block

    def _checked(self, events: list[bytes], numbers: Sequence[int]) -> EventRun:
        """Return the run without blank lines and with ids. Raises BadInput."""
        heads = _heads(events)
        if len(heads) != len(events):
            kept = [(event, n) for event, n in zip(events, numbers, strict=True) if event.strip()]
            events, numbers = [event for event, _ in kept], [n for _, n in kept]
            heads = _heads(events)
            if len(heads) != len(events):
                self._raise_bad(events, numbers)
        for index, head in enumerate(heads):
            if not head.id and self._gives_ids:
                events[index] = with_id(events[index])
                self.ids_given += 1
        return events, numbers

    def _raise_bad(self, events: Sequence[bytes], numbers: Sequence[int]) -> None:
        for event, number in zip(events, numbers, strict=True):
            try:
                _decode_head(event)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise BadInput(f"{self.noun} {number} is no JSON object: {error}") from None


class LineSplitter:
    """Splits blocks of any size into lines."""

    __slots__ = ("_number", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._number = 1

    def feed(self, block: bytes) -> tuple[list[bytes], int]:
        """Return the lines that `block` completes, without line ends, and the number of the first.

        Raises BadInput when a line grows beyond LINE_BYTES_MAX.
        """
        lines = block.split(b"\n")
        first = self._number
        if len(lines) > 1:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest = []
        rest = lines.pop()
        if rest:
            self._rest.append(rest)
        self._number += len(lines)
        if sum(map(len, self._rest)) > LINE_BYTES_MAX:
            raise BadInput(f"line {self._number} is longer than {LINE_BYTES_MAX >> 20} MiB")
        return lines, first

    def finish(self) -> tuple[list[bytes], int]:
        """Return the last line, if it has no line end, and its number."""
        return ([b"".join(self._rest)] if self._rest else []), self._number


def with_id(event: bytes) -> bytes:
    """Return the JSON object `event`, which has no id, with a new id as its first member."""
    members = event.strip()[1:].lstrip()
    comma = b"" if members == b"}" else b","
    return b'{"id":"%b"%b%b' % (new_id().encode(), comma, members)


def _heads(events: Sequence[bytes]) -> list[_Head]:
    try:
        return _decode_heads(b"[" + b",".join(events) + b"]")
    except (msgspec.MsgspecError, RecursionError):
        return []


async def _readable(fd: int) -> None:
    """Wait until a pipe or terminal has data; a thread that blocks in a read could not be interrupted."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except OSError:
        return  # cannot be polled, such as /dev/null: it never blocks
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
