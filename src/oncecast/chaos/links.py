"""A TCP proxy between two processes that injects faults: cut, freeze, delay, reset, or drop a response.

There is one between every listener and PostgreSQL, Valkey and each producer, and between publishers and producers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Self

from oncecast.embedded.ports import LOOPBACK

CHUNK_BYTES = 64 * 1024
DELAY_S = 0.2
CONNECT_DEADLINE_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Confirms = Callable[[bytes], bool]
"""Returns whether a server's response confirms something; the fault `drop` loses these."""


def any_answer(_: bytes) -> bool:
    """Return True: every response confirms something."""
    return True


def is_commit(answer: bytes) -> bool:
    """Return whether PostgreSQL confirms a COMMIT, or an INSERT in autocommit."""
    return b"COMMIT\0" in answer or (b"INSERT 0 " in answer and answer.endswith(b"Z\0\0\0\5I"))


def is_accepted(answer: bytes) -> bool:
    """Return whether a producer confirms that events are on its disk."""
    return answer.startswith(b"HTTP/1.1 202")


class Link:
    """Forwards connections from its own `port` to `target_port`, unless a fault is active."""

    def __init__(self, name: str, target_port: int, confirms: Confirms = any_answer) -> None:
        self.name = name
        self.port = 0
        self._target_port = target_port
        self._confirms = confirms
        self._fault: str | None = None
        self._frozen = frozenset[str]()
        self._thawed = asyncio.Event()
        self._carried: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.clear()
        self._break(reset=False)
        if self._carried:
            await asyncio.wait(self._carried)

    def inject(self, kind: str, way: str) -> None:
        """Start a fault: `cut`, `freeze` (`way`: "up" to the server, "down", "both"), `delay`, `reset`, `drop`."""
        self._fault = kind
        if kind == "freeze":
            self._frozen = frozenset(("up", "down") if way == "both" else (way,))
            self._thawed.clear()
        elif kind in ("cut", "reset"):
            self._break(reset=kind == "reset")

    def clear(self) -> None:
        """End the fault; bytes that were held back arrive now."""
        self._fault, self._frozen = None, frozenset()
        self._thawed.set()

    def _break(self, *, reset: bool) -> None:
        for end in self._ends:
            if reset:
                with contextlib.suppress(OSError, ValueError):  # it may be closed already
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._carried.add(task)
            task.add_done_callback(self._carried.discard)
        ends = {writer}
        try:
            if self._fault == "cut":
                return
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                from_server, to_server = await asyncio.open_connection(LOOPBACK, self._target_port)
            ends.add(to_server)
            self._ends |= ends
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._pump(reader, to_server, "up")),
                    group.create_task(self._pump(from_server, writer, "down")),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except OSError:
            return  # the server is down: so is the link
        finally:
            self._ends -= ends
            for end in ends:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """Forward bytes until either side ends."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                while way in self._frozen:
                    await self._thawed.wait()
                if self._fault == "delay":
                    await asyncio.sleep(DELAY_S)
                if self._fault == "drop" and way == "down" and self._confirms(data):
                    return
                writer.write(data)
                await writer.drain()
