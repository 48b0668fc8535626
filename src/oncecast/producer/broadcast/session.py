"""Parts that the sessions of all readers share: limits, the first offset, the close."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from oncecast.core.event import Cursor
from oncecast.core.ports import Journal
from oncecast.core.wire import Epoch, resume_after


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """The number of groups, and the deadlines of readers."""

    groups_max: int = 100
    """The number of groups; each holds events back until it is forgotten or expires."""
    resume_deadline_s: float = 30.0
    """The deadline of a listener's first frame."""
    listener_send_deadline_s: float = 30.0
    client_send_deadline_s: float = 10.0
    """The deadline for a plain client to receive a frame."""
    close_deadline_s: float = 10.0


def start_after(journal: Journal, cursor: Cursor) -> int:
    """Return the offset after which a reader at `cursor` continues; never beyond the journal's last offset."""
    # rule: a reader continues right after its cursor
    offset = resume_after(cursor, [Epoch(cursor.epoch, 0)], journal.epochs)
    return max(journal.first - 1, min(offset, journal.last))


async def close(socket: WebSocket, code: int, reason: str, deadline_s: float) -> None:
    """Close the socket, after everything sent before; safe if it is closed. A reason is cut to 120 bytes."""
    try:
        async with asyncio.timeout(deadline_s):
            await socket.close(code, reason.encode()[:120].decode(errors="ignore"))
    except (RuntimeError, TimeoutError, OSError, WebSocketDisconnect):
        return  # the client has closed it
