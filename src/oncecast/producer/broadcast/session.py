"""What the sessions of all readers share: where they begin, how they run, how they end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from oncecast.core.event import Cursor
from oncecast.core.ports import Journal
from oncecast.core.wire import Epoch, resume_after


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """How many groups may read, and how long a reader may take."""

    groups_max: int = 100
    """Each holds events back, until it is forgotten or expires."""
    resume_deadline_s: float = 30.0
    """Until a listener's first frame."""
    listener_send_deadline_s: float = 30.0
    client_send_deadline_s: float = 10.0
    """For a plain client to take a frame."""
    close_deadline_s: float = 10.0


def start_after(journal: Journal, cursor: Cursor) -> int:
    """The offset after which a reader at `cursor` goes on; never beyond what the journal has."""
    # rule: a reader continues right after its cursor
    offset = resume_after(cursor, [Epoch(cursor.epoch, 0)], journal.epochs)
    return max(journal.first - 1, min(offset, journal.last))


async def close(socket: WebSocket, code: int, reason: str, deadline_s: float) -> None:
    """Close, unless it is closed already; a reason has at most 123 bytes, and comes after what was sent before."""
    try:
        async with asyncio.timeout(deadline_s):
            await socket.close(code, reason.encode()[:120].decode(errors="ignore"))
    except (RuntimeError, TimeoutError, OSError, WebSocketDisconnect):
        return  # the other side was faster
