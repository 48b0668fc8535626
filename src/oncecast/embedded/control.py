"""`oncecast stop|start|kill NAME` from another terminal: a socket in the stack's folder, a JSON line each way.

The socket is opened through a descriptor of its folder, or from within it: a socket's path is limited to about 100
bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from oncecast.core.errors import OncecastError, StartError

SOCKET_NAME = "control.sock"
ANSWER_DEADLINE_S = 90.0


class Command(msgspec.Struct):
    """A request to `stop`, `start` or `kill` the process `name`."""

    verb: str
    name: str


class Reply(msgspec.Struct):
    """The result of a command; `error` is text for users."""

    error: str | None = None


Handle = Callable[[Command], Awaitable[None]]


async def serve_control(folder: Path, handle: Handle) -> asyncio.Server:
    """Start to answer commands; `handle` raises OncecastError to refuse one. Raises StartError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                command = msgspec.json.decode(await reader.readline(), type=Command)
                await handle(command)
        except (OncecastError, msgspec.MsgspecError) as error:
            reply = Reply(str(error))
        except TimeoutError:
            reply = Reply(f"no answer within {ANSWER_DEADLINE_S:.0f} s")
        else:
            reply = Reply()
        with contextlib.suppress(OSError):
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
            writer.close()

    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        (folder / SOCKET_NAME).unlink(missing_ok=True)
        with _within(folder):
            listening.bind(SOCKET_NAME)
        (folder / SOCKET_NAME).chmod(0o600)
    except OSError as error:  # some file systems have no sockets
        listening.close()
        raise StartError(f"cannot make a socket in {folder}: {error.strerror}; --data names another folder") from None
    return await asyncio.start_unix_server(answer, sock=listening)


def send_command(folder: Path, command: Command) -> None:
    """Send a command to the stack in `folder`. Raises StartError if it refuses, or if no stack runs."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.settimeout(ANSWER_DEADLINE_S)
    with asking:
        try:
            with _within(folder):
                asking.connect(SOCKET_NAME)
            asking.sendall(msgspec.json.encode(command) + b"\n")
            with asking.makefile("rb") as stream:
                answer = msgspec.json.decode(stream.readline(), type=Reply)
        except TimeoutError:
            raise StartError(f"no answer from the stack in {folder} within {ANSWER_DEADLINE_S:.0f} s") from None
        except (OSError, msgspec.MsgspecError):
            raise StartError(f"nothing runs in {folder}: 'oncecast up --data {folder}' begins it") from None
    if answer.error is not None:
        raise StartError(answer.error)


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
